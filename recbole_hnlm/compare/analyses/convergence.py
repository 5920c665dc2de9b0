"""How fast a sampler learns, by epoch and by seconds of training."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from recbole_hnlm.compare.analyses.base import Analysis, Entry, add_samplers, values_of_sampler
from recbole_hnlm.compare.analyses.readings import Reading, pivot
from recbole_hnlm.compare.ledger import Record
from recbole_hnlm.compare.tables import Table

_SCORE, _SECONDS = "validation score", "seconds"
_NEARLY = 0.01


class Convergence(Analysis):
    """The curve of validation; the table says when each run was at its best, and when within 1 % of it."""

    title = "Convergence"
    _sign = 1  # -1 where less is better, which the records say of the metric that all of them share

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--neg_samplers``."""
        add_samplers(parser, ("uniform", "dns", "mixgcf", "ahns", "hnlm"))

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """Every sampler."""
        return [Entry(name, "", values_of_sampler(name, shared)) for name in args.neg_samplers]

    def readings(self, entry: Entry, record: Record) -> Iterator[Reading]:
        """Score and seconds of training at every validation."""
        self._sign = 1 if record.get("higher_is_better", True) else -1
        for epoch, seconds, score in record["curve"]:
            for metric, value in ((_SCORE, score), (_SECONDS, seconds)):
                yield Reading(entry.series, f"epoch {epoch + 1}", epoch + 1, metric, record["seed"], value)

    def table(self, readings: Sequence[Reading], dataset: str) -> Table:
        """When every run was at its best, and when it was within 1 % of it: means over the seeds."""
        summary = []
        for (series, seed), curve in _by_run(readings).items():
            at = max(curve, key=lambda point: self._sign * point[2])
            best = at[2]
            near = next(point for point in curve if abs(best - point[2]) <= _NEARLY * abs(best))
            values = {"best validation score": best, "epochs to the best": at[0], "seconds to the best": at[1],
                      "epochs to within 1 %": near[0], "seconds to within 1 %": near[1]}  # fmt: skip
            summary += [Reading(series, "", None, metric, seed, value) for metric, value in values.items()]
        note = "Seconds are those of training alone; they belong to the machine and what else it did."
        return pivot(summary, f"{self.title}, {dataset}", (note,))

    def plot(self, readings: Sequence[Reading]) -> Figure:
        """The curves of every sampler's first seed, by epoch and by seconds."""
        figure = Figure(figsize=(10.4, 3.8), layout="constrained")
        runs = _by_run(readings)
        first = {series: min(seed for name, seed in runs if name == series) for series, _ in runs}
        for number, axis in enumerate(("epoch", "seconds of training")):
            axes = figure.add_subplot(1, 2, number + 1)
            for series, seed in first.items():
                curve = runs[series, seed]
                axes.plot([point[number] for point in curve], [point[2] for point in curve], label=series)
            axes.set_xlabel(axis)
            axes.set_ylabel(_SCORE)
        figure.axes[-1].legend(fontsize="small")
        return figure


def _by_run(readings: Sequence[Reading]) -> dict[tuple[str, int], list[tuple[float, float, float]]]:
    """(epoch, seconds, score) at every validation, by series and seed."""
    values = {(one.series, one.seed, one.x, one.metric): one.value for one in readings}
    runs: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for (series, seed, epoch, metric), score in values.items():
        if metric == _SCORE:
            point = (epoch or 0.0, values[series, seed, epoch, _SECONDS], score)
            runs.setdefault((series, seed), []).append(point)
    return runs
