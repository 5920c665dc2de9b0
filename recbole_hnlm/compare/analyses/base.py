"""What an analysis is: entries to train, readings of each run, and a way to tabulate and plot the readings."""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from matplotlib.figure import Figure

from recbole_hnlm.compare.analyses.drawing import draw
from recbole_hnlm.compare.analyses.readings import Reading, pivot
from recbole_hnlm.compare.ledger import Record
from recbole_hnlm.compare.spaces import packaged_rows
from recbole_hnlm.compare.tables import Table
from recbole_hnlm.config import packaged_defaults
from recbole_hnlm.options import SAMPLER_KEY, HNLMOptions
from recbole_hnlm.options.parsing import nearest
from recbole_hnlm.run_options.checks import TEXT_SAMPLER

ANALYSES: dict[str, str] = {
    "ablation": "recbole_hnlm.compare.analyses.ablation:Ablation",
    "negatives": "recbole_hnlm.compare.analyses.negatives:NegativesPerPair",
    "alpha": "recbole_hnlm.compare.analyses.alpha:Alpha",
    "sparsity": "recbole_hnlm.compare.analyses.sparsity:Sparsity",
    "popularity": "recbole_hnlm.compare.analyses.popularity:PopularityGroups",
    "false-negatives": "recbole_hnlm.compare.analyses.false_negatives:FalseNegatives",
    "convergence": "recbole_hnlm.compare.analyses.convergence:Convergence",
    "encoder": "recbole_hnlm.compare.analyses.encoder:EncoderSize",
    "transfer": "recbole_hnlm.compare.analyses.transfer:Transfer",
}
"""Name on the command line -> class; a new analysis is one file and one line here."""
NO_ALIGNMENT = {"hnlm_alignment_weight": 0.0, "hnlm_hard_alignment_weight": 0.0}
NO_TEXT = {**NO_ALIGNMENT, "hnlm_alpha": 0.0, "hnlm_init": "random"}
"""Settings of ``hnlm`` that leave its rule alone."""


@dataclass(frozen=True)
class Entry:
    """Something to train.

    Attributes:
        series: What it is a point of, e.g. a sampler: one curve of the plot.
        label: The point's name, e.g. ``K 4``.
        values: Settings that make it.
        x: Its place on the axis; None where the points have no order.
        dataset: Dataset it is trained on, where that is another than the one asked for.
    """

    series: str
    label: str
    values: Mapping[str, Any]
    x: float | None = None
    dataset: str | None = None

    @property
    def name(self) -> str:
        """Name of its row."""
        return f"{self.series}, {self.label}" if self.label else self.series


class Analysis:
    """One analysis; a subclass implements :meth:`entries`, and what else it needs."""

    title: ClassVar[str]
    """What the analysis shows, for the head of its table."""
    axis: ClassVar[str] = ""
    """What stands on the horizontal axis, where the entries have places on it."""
    probes: ClassVar[bool] = False
    """Whether runs also tell of every epoch's negatives and of item groups."""

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Enter the analysis's own arguments."""

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """What is to be trained, in the order of the table.

        Args:
            args: The command's arguments.
            shared: Settings of all entries, as the user gave them.

        Raises:
            ValueError: On arguments that make no sense.
        """
        raise NotImplementedError

    def readings(self, entry: Entry, record: Record) -> Iterator[Reading]:
        """What one run says: its test metrics, unless the analysis is about something else."""
        for metric, value in record["test"].items():
            yield Reading(entry.series, entry.label, entry.x, metric, record["seed"], value)

    def table(self, readings: Sequence[Reading], dataset: str) -> Table:
        """The table of all readings."""
        return pivot(readings, f"{self.title}, {dataset}", tuple(self.notes()))

    def plot(self, readings: Sequence[Reading]) -> Figure:
        """The plot of all readings: curves where points have places on an axis, else bars."""
        return draw(readings, self.axis)

    def notes(self) -> Iterator[str]:
        """Sentences below the table."""
        yield from ()


def analysis_of(name: str) -> Analysis:
    """The analysis of a name.

    Raises:
        ValueError: If there is none, naming the nearest.
    """
    if name not in ANALYSES:
        raise ValueError(f"unknown analysis {name!r}, choose one of {list(ANALYSES)}{nearest(name, ANALYSES)}")
    module, _, attribute = ANALYSES[name].partition(":")
    made: Analysis = getattr(importlib.import_module(module), attribute)()
    return made


def add_samplers(parser: ArgumentParser, default: Sequence[str]) -> None:
    """Enter ``--neg_samplers``, the list that an analysis goes through."""
    parser.add_argument("--neg_samplers", nargs="+", default=list(default), help=f"default: {' '.join(default)}")


def values_of_sampler(name: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a sampler by the name that ``recbole-hnlm compare`` has for it, given the settings of all entries."""
    for kind in ("text", "sampler"):
        found = packaged_rows()[kind].get(name) or {}
        if SAMPLER_KEY in found.get("values", {}):
            own = candidates_of(name, shared) if kind == "sampler" else {}
            return {**own, **found["values"]}
    return {SAMPLER_KEY: name}


def candidates_of(rule: str, shared: Mapping[str, Any]) -> dict[str, Any]:
    """The candidates a rule draws on its own, for a run under ``hnlm``, which draws fewer; none if they are set."""
    key = "neg_sampler_candidates"
    default = {} if ":" in rule else packaged_defaults(f"sampler/{rule}.yaml")
    return {key: default[key]} if key in default and key not in shared else {}


def defaults_of_text(shared: Mapping[str, Any]) -> dict[str, Any]:
    """``neg_sampler: hnlm`` with the rule that the user has asked for."""
    return {SAMPLER_KEY: TEXT_SAMPLER, "hnlm_base_sampler": shared.get("hnlm_base_sampler", HNLMOptions.base_sampler)}
