"""Figures of a comparison: one block for a backbone on a dataset, one line for a row, held against one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from recbole.evaluator.register import smaller_metrics

from recbole_hnlm.compare.outcomes import Outcome, validation_score
from recbole_hnlm.compare.rows import ID_ONLY
from recbole_hnlm.compare.statistics import Difference, difference, holm, mean_and_deviation

DECIMALS = 4
"""Decimals of a metric in the tables; rows that look equal there share their rank."""


@dataclass(frozen=True)
class Figure:
    """A metric of a line.

    Attributes:
        mean: Mean over the seeds, on the test split.
        deviation: Sample standard deviation; None with one seed.
        rank: 1 and 2 for the best and the second of the block, by mean over every seed; 0 for the others.
        against: Comparison with the block's base; None for the base itself and where nothing can be compared.
        p_t: p of the paired t-test, corrected over the block's lines.
        p_wilcoxon: p of the Wilcoxon test, corrected over the block's lines.
    """

    mean: float
    deviation: float | None
    rank: int
    against: Difference | None
    p_t: float | None
    p_wilcoxon: float | None


@dataclass(frozen=True)
class Line:
    """A row in a block.

    Attributes:
        outcome: Where its figures come from.
        valid: Mean of the validation score over the seeds, by which the base is chosen.
        figures: Figure by metric.
    """

    outcome: Outcome
    valid: float
    figures: Mapping[str, Figure]

    @property
    def name(self) -> str:
        """The row's name."""
        return self.outcome.cell.row.name


@dataclass(frozen=True)
class Block:
    """The rows of a backbone on a dataset, with the baselines that have no backbone.

    Attributes:
        dataset: The dataset.
        backbone: The backbone; empty where there are baselines alone.
        base: Name of the row that the others are held against; None without one.
        lines: Rows with figures.
        others: Rows without, failed or unfinished.
    """

    dataset: str
    backbone: str
    base: str | None
    lines: tuple[Line, ...]
    others: tuple[Outcome, ...]

    @property
    def title(self) -> str:
        """Dataset and backbone."""
        return ", ".join(part for part in (self.dataset, self.backbone) if part)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that every line has, in RecBole's order."""
        every = [line.figures for line in self.lines]
        return tuple(name for name in (every[0] if every else ()) if all(name in figures for figures in every))


def blocks_of(outcomes: Sequence[Outcome], against: str | None = None) -> list[Block]:
    """The blocks of a comparison, datasets and backbones in the order of their first row.

    Args:
        outcomes: Every cell's outcome.
        against: Row that the others are held against; None takes the id-only row that is best on validation.

    Raises:
        ValueError: If no row is called ``against``.
    """
    names = {outcome.cell.row.name for outcome in outcomes}
    if against is not None and against not in names:
        raise ValueError(f"against={against!r} is no row; choose one of {sorted(names)}")
    return [_block(dataset, backbone, list(group), against) for dataset, backbone, group in _groups(outcomes)]


def _groups(outcomes: Sequence[Outcome]) -> Iterator[tuple[str, str, Iterable[Outcome]]]:
    for dataset in dict.fromkeys(outcome.cell.dataset for outcome in outcomes):
        own = [outcome for outcome in outcomes if outcome.cell.dataset == dataset]
        backbones = dict.fromkeys(outcome.cell.block for outcome in own if outcome.cell.block)
        for backbone in backbones or {"": None}:
            yield dataset, backbone, (outcome for outcome in own if outcome.cell.block in ("", backbone))


def _block(dataset: str, backbone: str, outcomes: list[Outcome], against: str | None) -> Block:
    told = [outcome for outcome in outcomes if outcome.done and not outcome.missing]
    valid = {outcome.cell.row.name: _valid_mean(outcome) for outcome in told}
    whole = [outcome for outcome in told if outcome.complete]
    possible = [outcome.cell.row.name for outcome in whole if outcome.cell.row.kind in ID_ONLY]
    base = against if against in valid else max(possible, key=lambda name: valid[name], default=None)
    metrics = list(told[0].done[0]["test"]) if told else []
    columns = {metric: _figures(told, metric, base) for metric in metrics}
    lines = tuple(
        Line(outcome, valid[outcome.cell.row.name], {metric: columns[metric][place] for metric in metrics})
        for place, outcome in enumerate(told)
    )
    return Block(dataset, backbone, base, lines, tuple(outcome for outcome in outcomes if outcome not in told))


def _valid_mean(outcome: Outcome) -> float:
    """Mean validation score over the seeds, higher is better; minus infinity with a seed whose score is no number."""
    scores = [validation_score(run) for run in outcome.done]
    return mean_and_deviation([-math.inf if score is None else score for score in scores])[0]


def _figures(outcomes: Sequence[Outcome], metric: str, base: str | None) -> list[Figure]:
    """The figures of one metric, in the order of the outcomes."""
    by_seed = [{run["seed"]: float(run["test"][metric]) for run in outcome.done} for outcome in outcomes]
    names = [outcome.cell.row.name for outcome in outcomes]
    reference = by_seed[names.index(base)] if base is not None else {}
    differences = [
        None if name == base else difference(values, reference) for name, values in zip(names, by_seed, strict=True)
    ]
    p_t = holm([None if one is None else one.p_t for one in differences])
    p_wilcoxon = holm([None if one is None else one.p_wilcoxon for one in differences])
    means = [mean_and_deviation(list(values.values())) for values in by_seed]
    shown = [round(means[i][0], DECIMALS) if outcome.complete else None for i, outcome in enumerate(outcomes)]
    ranked = {value for value in shown if value is not None}
    order = sorted(ranked, reverse=metric.partition("@")[0] not in smaller_metrics)[:2]
    ranks = [order.index(value) + 1 if value in order else 0 for value in shown]
    return [Figure(*means[i], ranks[i], differences[i], p_t[i], p_wilcoxon[i]) for i in range(len(outcomes))]
