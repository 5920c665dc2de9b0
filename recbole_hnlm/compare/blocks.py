"""Figures of a comparison: one block for a backbone on a dataset, one line for a row, held against one of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from recbole.evaluator.register import smaller_metrics

from recbole_hnlm.compare.outcomes import Outcome, validation_score
from recbole_hnlm.compare.rows import ID_ONLY
from recbole_hnlm.compare.splits import held_out_share
from recbole_hnlm.compare.statistics import Difference, difference, holm, mean_and_deviation

DECIMALS = 4
"""Decimals of a metric in the tables; rows that look equal there share their rank."""


@dataclass(frozen=True)
class Figure:
    """A metric of a line.

    Attributes:
        mean: Mean over the row's seeds, on the test split.
        deviation: Sample standard deviation; None with one seed.
        rank: 1 and 2 for the best and the second of the block, by mean over the seeds that all rows share; 0 for the
            others.
        against: Comparison with the block's base; None for the base itself and where nothing can be compared.
        p_t: p of the paired t-test, corrected over the block's lines.
        p_resampled: p of the t-test for splits that overlap, likewise.
        p_wilcoxon: p of the Wilcoxon test, corrected over the block's lines.
    """

    mean: float
    deviation: float | None
    rank: int
    against: Difference | None
    p_t: float | None
    p_resampled: float | None
    p_wilcoxon: float | None


@dataclass(frozen=True)
class Line:
    """A row in a block.

    Attributes:
        outcome: Where its figures come from.
        valid: Mean of the validation score over the row's seeds, higher is better.
        figures: Figure by metric.
    """

    outcome: Outcome
    valid: float
    figures: Mapping[str, Figure]

    @property
    def name(self) -> str:
        """The row's name."""
        return self.outcome.cell.row.name

    @property
    def valid_score(self) -> float:
        """Mean of the validation score as it was measured, of metrics where less is better too."""
        return self.valid if self.outcome.done[0]["higher_is_better"] else -self.valid


@dataclass(frozen=True)
class Block:
    """The rows of a backbone on a dataset, with the baselines that have no backbone.

    Attributes:
        dataset: The dataset.
        backbone: The backbone; empty where there are baselines alone.
        base: Name of the row that the others are held against; None without one.
        lines: Rows with figures.
        others: Rows without, failed or unfinished.
        shared: Seeds that every ranked row has; ranks are by their runs alone.
        held_out: Test pairs for each training pair where seeds split anew; 0 for one split, None if unknown.
        asked: Row that the user asks the others to be held against; None where validation chooses.
    """

    dataset: str
    backbone: str
    base: str | None
    lines: tuple[Line, ...]
    others: tuple[Outcome, ...]
    shared: tuple[int, ...] = ()
    held_out: float | None = 0.0
    asked: str | None = None

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
    whole = [outcome for outcome in told if outcome.complete]
    names = [outcome.cell.row.name for outcome in told]
    base = against if against in names else best_by_validation([one for one in whole if one.cell.row.kind in ID_ONLY])
    shared = _shared_seeds(whole)
    metrics = list(told[0].done[0]["test"]) if told else []
    runs = [run for outcome in told for run in outcome.done]
    held_out = held_out_share(told[0].cell.values, runs) if told else 0.0
    columns = {metric: _figures(told, metric, (base, held_out), shared) for metric in metrics}
    lines = tuple(
        Line(outcome, _valid_mean(outcome), {metric: columns[metric][place] for metric in metrics})
        for place, outcome in enumerate(told)
    )
    others = tuple(outcome for outcome in outcomes if outcome not in told)
    return Block(dataset, backbone, base, lines, others, shared, held_out, against)


def _shared_seeds(outcomes: Sequence[Outcome]) -> tuple[int, ...]:
    """Seeds that all outcomes have: others would hold a row on one split against a row on another."""
    seeds = [{run["seed"] for run in outcome.done} for outcome in outcomes]
    return tuple(sorted(set.intersection(*seeds))) if seeds else ()


def best_by_validation(outcomes: Sequence[Outcome]) -> str | None:
    """Name of the best row on validation over the seeds that all have; None where they share none.

    Args:
        outcomes: Finished rows of one dataset and backbone.
    """
    shared = _shared_seeds(outcomes)
    if not shared:
        return None
    return max(outcomes, key=lambda outcome: _valid_mean(outcome, shared)).cell.row.name


def _valid_mean(outcome: Outcome, seeds: Sequence[int] | None = None) -> float:
    """Mean validation score, higher is better; minus infinity with a seed whose score is no number."""
    scores = [validation_score(run) for run in outcome.done if seeds is None or run["seed"] in seeds]
    return mean_and_deviation([-math.inf if score is None else score for score in scores])[0]


def _figures(
    outcomes: Sequence[Outcome], metric: str, against: tuple[str | None, float | None], shared: Sequence[int]
) -> list[Figure]:
    """The figures of one metric, in the order of the outcomes; ``against`` a row, with what splits hold out."""
    base, held_out = against
    by_seed = [{run["seed"]: float(run["test"][metric]) for run in outcome.done} for outcome in outcomes]
    names = [outcome.cell.row.name for outcome in outcomes]
    reference = by_seed[names.index(base)] if base is not None else {}
    differences = [
        None if name == base else difference(values, reference, held_out)
        for name, values in zip(names, by_seed, strict=True)
    ]
    tests = ("p_t", "p_resampled", "p_wilcoxon")
    corrected = [holm([None if one is None else getattr(one, test) for one in differences]) for test in tests]
    means = [mean_and_deviation(list(values.values())) for values in by_seed]
    compared = [
        mean_and_deviation([values[seed] for seed in shared])[0] if outcome.complete and shared else None
        for values, outcome in zip(by_seed, outcomes, strict=True)
    ]
    ranks = _ranks(compared, highest_first=metric.partition("@")[0] not in smaller_metrics)
    return [Figure(*means[i], ranks[i], differences[i], *p) for i, p in enumerate(zip(*corrected, strict=True))]


def _ranks(means: Sequence[float | None], highest_first: bool) -> list[int]:
    """1 for the best, 2 for the second, 0 for others and where there is no number; equal in the table is equal here."""
    shown = [None if mean is None or math.isnan(mean) else round(mean, DECIMALS) for mean in means]
    order = sorted({value for value in shown if value is not None}, reverse=highest_first)[:2]
    return [order.index(value) + 1 if value in order else 0 for value in shown]
