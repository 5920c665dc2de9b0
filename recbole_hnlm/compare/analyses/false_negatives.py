"""How many drawn negatives are positives that were held out, epoch by epoch."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from recbole_hnlm.compare.analyses.base import NO_TEXT, Analysis, Entry, add_samplers, candidates_of, values_of_sampler
from recbole_hnlm.compare.analyses.readings import Reading
from recbole_hnlm.compare.ledger import Record
from recbole_hnlm.compare.tables import Table
from recbole_hnlm.options import SAMPLER_KEY
from recbole_hnlm.run_options.checks import TEXT_SAMPLER

_SHOWN = 12
_RATES = {"false_negative_rate": "drawn", "false_negative_vectors": "vectors"}


class FalseNegatives(Analysis):
    """Shares of negatives that are held-out positives, and of (mixed) vectors that point where one does.

    Held-out pairs are looked at for the log alone; that they change nothing is what the leak check shows.
    """

    title = "False negatives by epoch"
    axis = "epoch"
    probes = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--neg_samplers``."""
        add_samplers(parser, ("uniform", "dns", "mixgcf", "ahns", "hnlm"))

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """Every sampler; those without text run as the rule below a text part that is switched off, so it can log."""
        return [Entry(name, "", _logging(values_of_sampler(name, shared), shared)) for name in args.neg_samplers]

    def readings(self, entry: Entry, record: Record) -> Iterator[Reading]:
        """Both shares of every epoch."""
        for epoch, means in enumerate(record["negatives"], start=1):
            for key, metric in _RATES.items():
                if key in means:
                    yield Reading(entry.series, f"epoch {epoch}", epoch, metric, record["seed"], means[key])

    def table(self, readings: Sequence[Reading], dataset: str) -> Table:
        """A dozen epochs at most, from the first to the last of each sampler; the CSV has all."""
        shown: list[Reading] = []
        for series in dict.fromkeys(reading.series for reading in readings):
            own = [reading for reading in readings if reading.series == series]
            epochs = sorted({reading.x or 0.0 for reading in own})
            told = {epochs[round(place)] for place in np.linspace(0, len(epochs) - 1, _SHOWN)}
            shown += [reading for reading in own if reading.x in told]
        return super().table(shown, dataset)

    def notes(self) -> Iterator[str]:
        """What the columns are."""
        yield "drawn: share of negatives that are held-out positives of their user, on one step in eight."
        yield "mixgcf, dins, dens and dtl choose an item at every hop of a graph model; the first hop's is looked at."
        yield "softmax weighs its candidates, and each counts with its weight in the loss."
        yield "vectors: share whose (mixed) row has a cosine above .99 to the row of a held-out positive of the user."


def _logging(values: Mapping[str, Any], shared: Mapping[str, Any]) -> dict[str, Any]:
    """A sampler's settings with false negatives logged."""
    if values[SAMPLER_KEY] == TEXT_SAMPLER:
        return {**values, "hnlm_log_false_negatives": True}
    rule = values[SAMPLER_KEY]
    return {SAMPLER_KEY: TEXT_SAMPLER, "hnlm_base_sampler": rule, **candidates_of(rule, shared), **NO_TEXT,
            "hnlm_log_false_negatives": True}  # fmt: skip
