"""The tables of a comparison, and its figures as CSV; the same runs give the same bytes.

Accuracy and cost are apart: seconds and memory differ from one machine and day to another, accuracy does not.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from recbole_hnlm.compare.blocks import DECIMALS, Block, Figure, Line
from recbole_hnlm.compare.ledger import canonical
from recbole_hnlm.compare.notes import notes_of, versions_of
from recbole_hnlm.compare.statistics import mean_and_deviation

_SHORT = {"recall": "R", "ndcg": "N", "precision": "P", "learning_rate": "lr", "reg_weight": "l2", "weight_decay": "l2"}
_SHORT_PREFIXES = ("neg_sampler_", "hnlm_")
PLUS_MINUS = "±"


@dataclass(frozen=True)
class Table:
    """A block ready to be written.

    Attributes:
        title: What it is about.
        header: Names of the columns.
        rows: Cells as text.
        marks: ``(row, column)`` -> 1 for the best, 2 for the second.
        notes: Sentences below it.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marks: dict[tuple[int, int], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def accuracy_table(block: Block) -> Table:
    """What every row of a block reaches, and how it compares with the base."""
    metrics = block.metrics
    names = [short_metric(metric) for metric in metrics]
    base = block.base or "no row"
    tests = {"p t": "p_t", "p t, resampled": "p_resampled", "p Wilcoxon": "p_wilcoxon"}
    if not block.held_out:
        del tests["p t, resampled"]  # no other than p t, or unknown
    header = (
        "row", *names, *(f"{name} vs {base}" for name in names), *(f"{test} ({', '.join(names)})" for test in tests),
        "trials", "point", "seeds",
    )  # fmt: skip
    rows, marks = [], {}
    for place, line in enumerate(block.lines):
        figures = [line.figures[metric] for metric in metrics]
        marks.update({(place, 1 + i): figure.rank for i, figure in enumerate(figures) if figure.rank})
        rows.append(
            (
                line.name, *map(_mean_cell, figures), *map(_percent_cell, figures),
                *(_p_cell(figures, test) for test in tests.values()),
                _trials(line), describe_point(line.outcome.point or {}), str(len(line.outcome.done)),
            )
        )  # fmt: skip
    return Table(block.title, header, tuple(rows), marks, tuple(notes_of(block)))


def cost_table(block: Block) -> Table:
    """What every row of a block costs: means over the seeds' runs at the tuned point."""
    header = ["row", "seconds an epoch", "epochs to the best", "seconds to the best", "epochs", "peak MiB"]
    columns: list[tuple[Callable[[Any], float | None], str]] = [
        (lambda run: run["seconds_per_epoch"], ".3f"),
        (lambda run: None if run["best_epoch"] is None else run["best_epoch"] + 1, ".1f"),
        (lambda run: run["seconds_to_best"], ".2f"),
        (lambda run: run["epochs"], ".1f"),
        (lambda run: run["peak_memory_mib"], ".0f"),
    ]
    if any(run.get("peak_gpu_memory_mib") is not None for line in block.lines for run in line.outcome.done):
        header.append("peak MiB of the GPU")
        columns.append((lambda run: run.get("peak_gpu_memory_mib"), ".0f"))
    rows = [(line.name, *(_cost_cell(line, read, form) for read, form in columns)) for line in block.lines]
    machines = {canonical(run["machine"]): run["machine"] for line in block.lines for run in line.outcome.done}
    described = [f"{m['processor']}, {m['cores']} cores, {m['device']}" for m in machines.values()]
    notes = [f"Machine: {text}." for text in sorted(set(described))]
    notes += [", ".join(f"{key} {value}" for key, value in one.items()) + "." for one in versions_of(block)]
    return Table(block.title, tuple(header), tuple(rows), notes=tuple(notes))


def _cost_cell(line: Line, read: Callable[[Any], float | None], form: str) -> str:
    values = [value for value in map(read, line.outcome.done) if value is not None]
    return format(mean_and_deviation(values)[0], form) if values else ""


def _trials(line: Line) -> str:
    failed = line.outcome.trials_failed
    return f"{line.outcome.tried}, {failed} failed" if failed else str(line.outcome.tried)


def _mean_cell(figure: Figure) -> str:
    mean = f"{figure.mean:.{DECIMALS}f}"
    return mean if figure.deviation is None else f"{mean} {PLUS_MINUS} {figure.deviation:.{DECIMALS}f}"


def _percent_cell(figure: Figure) -> str:
    if figure.against is None:
        return ""
    percent = figure.against.percent
    return f"{percent:+.1f} %" if math.isfinite(percent) else "-"  # of a base that is 0


def _p_cell(figures: Sequence[Figure], test: str) -> str:
    return " / ".join(probability(getattr(figure, test)) for figure in figures if figure.against)


def probability(p: float | None) -> str:
    """A p-value in three decimals, ``<.001`` below that, ``-`` where there is none."""
    if p is None:
        return "-"
    return "<.001" if p < 0.0005 else f"{p:.3f}"


def short_metric(metric: str) -> str:
    """``R@20`` for ``recall@20``."""
    name, _, cut = metric.partition("@")
    return f"{_SHORT.get(name, name)}@{cut}" if cut else _SHORT.get(name, name)


def describe_point(point: dict[str, Any]) -> str:
    """A tuned point, briefly: ``lr 0.003, l2 1e-05, candidates 8``."""
    parts = []
    for key in sorted(point):
        name = next((key.removeprefix(prefix) for prefix in _SHORT_PREFIXES if key.startswith(prefix)), key)
        value = point[key]
        parts.append(f"{_SHORT.get(key, name)} {value:g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(parts)


CSV_COLUMNS = (
    "dataset", "backbone", "row", "kind", "model", "metric", "mean", "deviation", "valid_score", "seeds", "against",
    "percent", "p_t", "p_t_holm", "p_resampled", "p_resampled_holm", "p_wilcoxon", "p_wilcoxon_holm", "trials", "point",
)  # fmt: skip


def comma_separated(blocks: Sequence[Block]) -> str:
    """Every figure as CSV, one line a row and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for block in blocks:
        writer.writerows(_csv_row(block, line, metric) for line in block.lines for metric in block.metrics)
    return text.getvalue()


def _csv_row(block: Block, line: Line, metric: str) -> list[Any]:
    cell, figure, runs = line.outcome.cell, line.figures[metric], len(line.outcome.done)
    against = figure.against
    tests: list[float | None] = [None] * 7
    if against is not None:
        resampled = against.p_resampled, figure.p_resampled
        tests = [against.percent, against.p_t, figure.p_t, *resampled, against.p_wilcoxon, figure.p_wilcoxon]
    figures = map(_number, (figure.mean, figure.deviation, line.valid_score))
    return [
        *(block.dataset, block.backbone, line.name, cell.row.kind, cell.row.model, metric, *figures, runs),
        *(block.base or "", *map(_number, tests), line.outcome.tried, canonical(line.outcome.point or {})),
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
