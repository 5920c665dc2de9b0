"""What becomes of a method when there is less to learn from."""

from __future__ import annotations

import csv
import shutil
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import read_atomic
from recbole_hnlm.compare.analyses.base import Analysis, Entry, add_samplers, values_of_sampler
from recbole_hnlm.compare.ledger import digest
from recbole_hnlm.compare.measuring import shaping
from recbole_hnlm.compare.plan import LOCAL, QUIET, CompareConfig
from recbole_hnlm.config import encoding_of
from recbole_hnlm.data_source import data_digest
from recbole_hnlm.leak.worlds import pairs_of, settings_of_split, write_pairs, write_world
from recbole_hnlm.quick_start import split

_SHARES = (20, 40, 60, 80, 100)
_LEFT_OUT = "left_out"


class Sparsity(Analysis):
    """20 to 100 % of every user's training pairs, the same validation, test, catalogue and masks."""

    title = "Share of the training pairs"
    axis = "training pairs, %"

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--shares`` and ``--neg_samplers``."""
        parser.add_argument("--shares", nargs="+", type=int, default=list(_SHARES), help="default: 20 40 60 80 100")
        add_samplers(parser, ("uniform", "dns", "hnlm"))

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """Every sampler on every share; the data sets are written here.

        Raises:
            ValueError: On shares that are none, and on pairs to mask from elsewhere.
        """
        wrong = [share for share in args.shares if not 0 < share <= 100]
        if wrong:
            raise ValueError(f"shares {wrong} are outside 1 to 100; they are percent of every user's training pairs")
        if shared.get("masked_filename"):
            raise ValueError("analyse sparsity masks what it leaves out, and nothing else; remove masked_filename")
        settings = {share: _written(args, shared, share) for share in args.shares}
        return [
            Entry(name, f"{share} %", {**settings[share], **values_of_sampler(name, shared)}, share,
                  f"{args.dataset}-{share}")
            for name in args.neg_samplers for share in args.shares
        ]  # fmt: skip

    def notes(self) -> Iterator[str]:
        """How pairs are drawn."""
        yield (
            "A share holds the first pairs of a seeded order of each user's training pairs, at least one, so smaller "
            "shares lie within larger ones. The split and the draw are those of the first seed. Pairs that a share "
            "leaves out are masked in evaluation as those of training are: they are true, and no mistake."
        )


def kept_pairs(users: NDArray[np.int64], share: int, seed: int) -> NDArray[np.bool_]:
    """Which pairs a share keeps: of each user's pairs, in a seeded order, the first ``share`` percent, rounded up.

    Args:
        users: User of each pair, shape ``(E,)``.
        share: Percent of every user's pairs.
        seed: Seed of the order, which does not depend on the share.
    """
    order = np.lexsort((np.random.default_rng(seed).permutation(len(users)), users))
    counts = np.bincount(users)
    place = np.empty(len(users), dtype=np.int64)
    starts = np.cumsum(counts) - counts
    place[order] = np.arange(len(users)) - starts[users[order]]
    return place < -(-counts[users] * share // 100)


def _written(args: Namespace, shared: Mapping[str, Any], share: int) -> dict[str, Any]:
    """Write one share as a dataset of its own, unless it is there, and give the settings that read it."""
    name, read = f"{args.dataset}-{share}", shaping(shared)
    where = {key: value for key, value in shared.items() if key in LOCAL}
    values = {**QUIET, **where, **read, "seed": args.first_seed, "neg_sampler": "uniform"}
    config = CompareConfig(args.model, args.dataset, config_dict=values)
    made_of = [data_digest(config), read, args.first_seed, _LEFT_OUT]
    home = Path(args.out) / "data" / digest(made_of)[:8]  # one folder per split
    if not (home / name).exists():
        _write_share(config, home, name, share)
    settings = settings_of_split(config, home / name / f"{name}.train.inter")
    if settings["load_col"] is not None:
        settings["load_col"] = {
            **settings["load_col"],
            "item": settings["load_col"].get("item") or [config["ITEM_ID_FIELD"]],
        }
    return {**settings, "masked_filename": _LEFT_OUT, "data_path": str(home.resolve())}


def _write_share(config: CompareConfig, home: Path, name: str, share: int) -> None:
    """Write a share under another name and rename it, so that what a kill leaves is not taken for it."""
    datasets = [loader._dataset for loader in split(config)]
    train = datasets[0]
    kept = kept_pairs(train.inter_feat[train.uid_field].numpy(), share, config["seed"])
    parts = [train.copy(train.inter_feat[np.flatnonzero(kept)]), *datasets[1:]]
    draft = home / f".{name}.new"
    shutil.rmtree(draft, ignore_errors=True)
    write_world(draft, name, parts, [pairs_of(part) for part in parts], None)
    write_pairs(draft / name / f"{name}.{_LEFT_OUT}.inter", train.copy(train.inter_feat[np.flatnonzero(~kept)]))
    _complete_catalogue(draft / name / f"{name}.item", train, config)
    (draft / name).replace(home / name)
    draft.rmdir()


def _complete_catalogue(path: Path, train: Any, config: CompareConfig) -> None:
    """Give every item of the catalogue a row, so that one whose pairs are all left out stays in it."""
    separator, encoding = str(config["field_separator"]), encoding_of(config)
    tokens = train.field2id_token[train.iid_field][1:].tolist()
    fields, known = [train.iid_field], set[str]()
    if path.exists():
        table = read_atomic(path, key=train.iid_field, separator=separator, encoding=encoding)
        fields, known = list(table.types), set(table.column(train.iid_field))
    else:
        path.write_text(f"{train.iid_field}:token\n", encoding=encoding)
    with path.open("a", encoding=encoding, newline="") as lines:
        csv.writer(lines, delimiter=separator, lineterminator="\n").writerows(
            [token if field == train.iid_field else "" for field in fields] for token in tokens if token not in known
        )
