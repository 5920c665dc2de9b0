"""Readings of runs, and what is made of them: a table of means, a CSV of everything."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

from recbole_hnlm.compare.statistics import mean_and_deviation
from recbole_hnlm.compare.tables import PLUS_MINUS, Table, short_metric

DECIMALS = 4


@dataclass(frozen=True)
class Reading:
    """One number of one run.

    Attributes:
        series: Curve that it belongs to, e.g. a sampler.
        label: Point of the curve.
        x: Place of the point on the axis, or None.
        metric: What was measured.
        seed: Seed of the run.
        value: The number.
    """

    series: str
    label: str
    x: float | None
    metric: str
    seed: int
    value: float


Spread = tuple[float, float | None]
"""Mean, and standard deviation over seeds where there are several."""


def spreads(readings: Sequence[Reading]) -> dict[tuple[str, str], dict[str, Spread]]:
    """Mean and deviation by (series, label) and metric, in the order of the readings."""
    values: dict[tuple[str, str], dict[str, list[float]]] = {}
    for reading in readings:
        point = values.setdefault((reading.series, reading.label), {})
        point.setdefault(reading.metric, []).append(reading.value)
    return {
        point: {metric: mean_and_deviation(numbers) for metric, numbers in metrics.items()}
        for point, metrics in values.items()
    }


def shown(spread: Spread | None) -> str:
    """``0.1234 ± 0.0012``; empty where there is nothing."""
    if spread is None:
        return ""
    mean, deviation = spread
    return f"{mean:.{DECIMALS}f}" + ("" if deviation is None else f" {PLUS_MINUS} {deviation:.{DECIMALS}f}")


def pivot(readings: Sequence[Reading], title: str, notes: tuple[str, ...] = ()) -> Table:
    """A table with a row for every point and a column for every metric."""
    found = spreads(readings)
    metrics = list(dict.fromkeys(reading.metric for reading in readings))
    labelled = any(label for _, label in found)
    header = ("row", *(["point"] if labelled else []), *map(short_metric, metrics))
    rows = tuple(
        (series, *([label] if labelled else []), *(shown(point.get(metric)) for metric in metrics))
        for (series, label), point in found.items()
    )
    return Table(title, header, rows, notes=notes)


def comma_separated(readings: Sequence[Reading]) -> str:
    """Every reading as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([field.name for field in fields(Reading)])
    writer.writerows(["" if cell is None else cell for cell in astuple(reading)] for reading in readings)
    return text.getvalue()
