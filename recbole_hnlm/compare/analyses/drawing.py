"""Readings as a picture: curves with their deviation where points have places on an axis, bars where none has one.

Among points that have places, one without is a level: a line across the panel.
"""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recbole_hnlm.compare.analyses.readings import Reading, spreads
from recbole_hnlm.compare.tables import short_metric


def draw(readings: Sequence[Reading], axis: str) -> Figure:
    """One panel a metric.

    Args:
        readings: What to draw.
        axis: Name of the horizontal axis.
    """
    metrics = list(dict.fromkeys(reading.metric for reading in readings))
    figure = Figure(figsize=(5.2 * max(1, len(metrics)), 3.8), layout="constrained")
    placed = any(reading.x is not None for reading in readings)
    for number, metric in enumerate(metrics):
        axes: Axes = figure.add_subplot(1, len(metrics), number + 1)
        own = [reading for reading in readings if reading.metric == metric]
        (_curves if placed else _bars)(axes, own)
        axes.set_ylabel(short_metric(metric))
        axes.set_xlabel(axis if placed else "")
    if figure.axes and len(figure.axes[-1].get_legend_handles_labels()[1]) > 1:
        figure.axes[-1].legend(fontsize="small")
    return figure


def _curves(axes: Axes, readings: Sequence[Reading]) -> None:
    found, metric = spreads(readings), readings[0].metric
    places = {(reading.series, reading.label): reading.x for reading in readings}
    for series in dict.fromkeys(reading.series for reading in readings):
        placed = {x: found[point][metric] for point, x in places.items() if point[0] == series and x is not None}
        if placed:
            x = sorted(placed)
            mean, errors = [placed[place][0] for place in x], [placed[place][1] or 0.0 for place in x]
            axes.errorbar(x, mean, yerr=errors if any(errors) else None, label=series, marker=".", linewidth=1.1)
    for number, (series, label) in enumerate(point for point, x in places.items() if x is None):
        name = f"{series}, {label}" if label else series
        axes.axhline(found[series, label][metric][0], label=name, color=f"C{number}", linestyle="--", linewidth=1.0)


def _bars(axes: Axes, readings: Sequence[Reading]) -> None:
    found = spreads(readings)
    series = list(dict.fromkeys(reading.series for reading in readings))
    labels = list(dict.fromkeys(reading.label for reading in readings))
    width = 0.8 / len(labels)
    for number, label in enumerate(labels):
        points = [found.get((name, label), {}).get(readings[0].metric) for name in series]
        mean, errors = [one[0] if one else 0.0 for one in points], [(one[1] or 0.0) if one else 0.0 for one in points]
        at = [place + (number - (len(labels) - 1) / 2) * width for place in range(len(series))]
        axes.bar(at, mean, width, yerr=errors if any(errors) else None, label=label or None)
    axes.set_xticks(range(len(series)), series, rotation=30, ha="right")
