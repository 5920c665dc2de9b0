"""How many negatives a pair should have."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from recbole.utils import InputType, get_model

from recbole_hnlm.compare.analyses.base import Analysis, Entry, add_samplers, values_of_sampler
from recbole_hnlm.model_lookup import find_model

_RECBOLES_BATCH = 2048


class NegativesPerPair(Analysis):
    """``neg_sampler_num`` from 1 up, at the same number of pairs a step."""

    title = "Negatives per pair"
    axis = "negatives per pair"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--counts`` and ``--neg_samplers``."""
        parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4, 8], help="default: 1 2 4 8")
        add_samplers(parser, ("uniform", "dns", "hnlm"))

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """Every sampler with every count; RecBole's batch size counts rows, so it grows with the count."""
        rows = int(shared.get("train_batch_size", _RECBOLES_BATCH))
        pointwise = _is_pointwise(args.model)
        rows_of = {count: rows * (count + 1) // 2 if pointwise else rows * count for count in args.counts}
        return [
            Entry(name, f"K {count}", {**values_of_sampler(name, shared), "neg_sampler_num": count,
                                       "train_batch_size": rows_of[count]}, count)
            for name in args.neg_samplers for count in args.counts
        ]  # fmt: skip

    def notes(self) -> Iterator[str]:
        """What is held constant."""
        yield (
            "Every step has the same number of pairs: train_batch_size, which counts rows, grows with K. RecBole's own "
            "penalty (reg_weight) is a root of sums over the rows, so K copies weigh it 1 / sqrt(K); weight_decay does "
            "not depend on K. Models without BPRLoss, and SGL, rank every negative in a term of its own."
        )


def _is_pointwise(name: str) -> bool:
    """Whether a model's batches hold the positive of a pair in a row of its own."""
    found = find_model(name)
    return (get_model(found) if isinstance(found, str) else found).input_type is InputType.POINTWISE
