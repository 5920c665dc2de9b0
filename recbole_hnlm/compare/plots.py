"""Plots of a comparison as SVG: bars with their deviation, and convergence by epoch and by seconds."""

from __future__ import annotations

import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recbole_hnlm.compare.blocks import Block
from recbole_hnlm.compare.tables import short_metric

_COLOURS = {
    "baseline": "#9a9a9a", "sampler": "#4c78a8", "loss": "#72b7b2", "comparator": "#eeca3b", "text": "#e45756",
    "control": "#b279a2",
}  # fmt: skip


def bars(block: Block) -> str:
    """Mean and standard deviation of every row, one panel a metric."""
    metrics = block.metrics
    figure = Figure(figsize=(5.2 * max(1, len(metrics)), 0.9 + 0.28 * len(block.lines)), layout="constrained")
    places = range(len(block.lines))
    for number, metric in enumerate(metrics):
        axes = figure.add_subplot(1, len(metrics), number + 1)
        told = [line.figures[metric] for line in block.lines]
        colours = [_COLOURS[line.outcome.cell.row.kind] for line in block.lines]
        errors = [one.deviation or 0.0 for one in told]
        axes.barh(places, [one.mean for one in told], xerr=errors, color=colours, error_kw={"elinewidth": 0.8})
        axes.set_yticks(places, [_plain(line.name) for line in block.lines] if number == 0 else [])
        axes.invert_yaxis()
        axes.set_xlabel(f"{short_metric(metric)}, test")
    return svg_element(figure)


def convergence(block: Block) -> str:
    """Validation score by epoch and by seconds of training, every row's run with the first seed."""
    figure = Figure(figsize=(10.4, 4.0), layout="constrained")
    panels: Sequence[tuple[str, int]] = (("epoch", 0), ("seconds of training", 1))
    for number, (label, column) in enumerate(panels):
        axes: Axes = figure.add_subplot(1, 2, number + 1)
        for line in block.lines:
            curve = line.outcome.done[0]["curve"]
            if len(curve) > 1:
                axes.plot(
                    [row[column] for row in curve], [row[2] for row in curve], label=_plain(line.name), linewidth=1.1
                )
        axes.set_xlabel(label)
        axes.set_ylabel("validation score")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    if handles:
        figure.axes[1].legend(handles, labels, fontsize="small", loc="lower right")
    return svg_element(figure)


def _plain(name: str) -> str:
    """A name in which matplotlib reads no formula, and that a legend does not leave out."""
    told = name.replace("$", r"\$")
    return f" {told}" if told.startswith("_") else told


def svg_element(figure: Figure) -> str:
    """The figure's ``<svg>`` element, the same bytes for the same figures, with text as text."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "recbole_hnlm", "svg.fonttype": "none", "font.size": 9}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    whole = text.getvalue()
    return whole[whole.index("<svg") :]
