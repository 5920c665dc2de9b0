"""Results as text: one run, or a base model beside the same model on our negatives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def run_name(model: str, result: Mapping[str, Any]) -> str:
    """Model, sampler and further loss of a run, e.g. ``LightGCN, hnlm(dns)`` or ``BPR, uniform, bsl``."""
    options = result["hnlm"]["options"]
    parts = (model, options.get("neg_sampler", "RecBole"), options.get("ranking_loss"))
    return ", ".join(str(part) for part in parts if part)


def comparison_lines(runs: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
    """A table of runs, test metrics at the best validation epoch; gains are over the first run.

    Args:
        runs: Name and result dictionary of each run, the base first.

    Returns:
        Lines of a Markdown table.
    """
    metrics = list(runs[0][1]["test_result"])
    header = ["run", *metrics, "gain", "epochs", "s/epoch", "seconds"]
    rows = [header, ["---"] * len(header)]
    base = runs[0][1]["test_result"]
    for index, (name, result) in enumerate(runs):
        test, ours = result["test_result"], result["hnlm"]
        gains = [f"{100 * (float(test[m]) / float(base[m]) - 1):+.1f} %" for m in metrics if float(base[m])]
        rows.append(
            [
                name,
                *(f"{float(test[metric]):.4f}" for metric in metrics),
                " / ".join(gains) if index else "",
                str(ours["epochs"]),
                f"{ours['seconds_per_epoch']:.2f}",
                f"{ours['fit_seconds']:.0f}",
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    return [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
