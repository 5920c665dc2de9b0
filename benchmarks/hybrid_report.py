"""Tables of what benchmarks/hybrid_rows.py has trained: python benchmarks/hybrid_report.py results/hybrid"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from accuracy import SEEDS, Run
from hybrid_rows import rows_of

METRICS = ("recall@20", "ndcg@20")
BASE = "alpha 0"
OF_ITEMS = {
    "untuned": "alpha 0, untuned items",
    "tuned": "alpha 0, tuned items",
    "tuned on older teacher": "alpha 0, items tuned on a teacher of 60 epochs",
}
"""Artefacts -> the row on them that mixes nothing; other artefacts have the items of :data:`BASE`."""


def runs_of(folder: Path) -> list[Run]:
    """All finished runs of a dataset."""
    return [json.loads(line) for file in sorted(folder.glob("runs-*.jsonl")) for line in file.read_text().splitlines()]


def chosen(runs: list[Run]) -> dict[str, dict[int, Run]]:
    """Row -> seed -> run, at the point that validation chose on the first seed; rows that are not done are left out."""
    points: dict[str, dict[str, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
    for run in runs:
        points[run["row"]][json.dumps(run["values"], sort_keys=True)][run["seed"]] = run
    best = {
        row: max(by_point.values(), key=lambda seeds: seeds[SEEDS[0]]["valid"]["ndcg@20"] if SEEDS[0] in seeds else 0)
        for row, by_point in points.items()
    }
    return {row: best[row] for row in rows_of(0.0) if row in best}


def paired_p(ours: list[float], base: list[float]) -> float:
    """Two-sided paired t test; 1 where nothing differs."""
    from scipy import stats

    difference = np.subtract(ours, base)
    return float(stats.ttest_rel(ours, base).pvalue) if np.ptp(difference) or difference.any() else 1.0


def told(values: dict[str, Any]) -> str:
    """The point of a row in short."""
    keys = {
        "hnlm_alpha": "alpha",
        "neg_sampler_share": "share",
        "hnlm_alignment_weight": "lambda1",
        "neg_sampler_num": "K",
    }
    return ", ".join(f"{name} {values[key]}" for key, name in keys.items() if values.get(key))


def reference(row: str) -> str:
    """The row that reads the same items' vectors, at the same knob, and mixes nothing."""
    if row.startswith(BASE):
        return BASE
    unmixed = OF_ITEMS.get(rows_of(0.0)[row][0], BASE)
    at_the_knob = f"{unmixed}, {row.partition(', ')[2]}"
    return at_the_knob if at_the_knob in rows_of(0.0) else unmixed


def table(runs: list[Run]) -> list[str]:
    """Lines of a Markdown table: mean and deviation over the seeds, and each row against its :func:`reference`."""
    rows = chosen(runs)
    lines = ["| row | point | seeds | R@20 | N@20 | against | | p (N@20) |", "|---|---|---|---|---|---|---|---|"]
    for row, seeds in rows.items():
        other = reference(row)
        cells = [_mean([seeds[seed]["test"][metric] for seed in sorted(seeds)]) for metric in METRICS]
        gain = p = ""
        common = sorted(set(seeds) & set(rows.get(other, {})))
        if other != row and common:
            both = [
                [[side[seed]["test"][metric] for seed in common] for side in (seeds, rows[other])] for metric in METRICS
            ]
            gain = " / ".join(f"{100 * (np.mean(ours) / np.mean(base) - 1):+.1f} %" for ours, base in both)
            p = f"{paired_p(*both[1]):.3f}" if len(common) > 1 else ""
        point, against = told(next(iter(seeds.values()))["values"]), other if gain else ""
        lines.append(f"| {row} | {point} | {len(seeds)} | {' | '.join(cells)} | {against} | {gain} | {p} |")
    return lines


def _mean(found: list[float]) -> str:
    return f"{np.mean(found):.4f} ± {np.std(found, ddof=1):.4f}" if len(found) > 1 else f"{found[0]:.4f}"


def epochs(runs: list[Run], row: str) -> list[str]:
    """What the first seed's log tells of a row's negatives, epoch by epoch."""
    seeds = chosen(runs).get(row, {})
    if SEEDS[0] not in seeds:
        return []
    told_of: dict[str, dict[str, float]] = seeds[SEEDS[0]]["negatives"]
    keys = (
        "text_above_negative", "hardness", "false_negative_rate", "text_norm", "text_cosine_negative",
        "text_cosine_positive", "text_above_items", "negative_above_items",
    )  # fmt: skip
    lines = [f"| {row}: epoch | " + " | ".join(keys) + " |", "|---" * (len(keys) + 1) + "|"]
    for epoch, means in told_of.items():
        lines.append(f"| {epoch} | " + " | ".join(f"{means[key]:.4f}" if key in means else "" for key in keys) + " |")
    return lines


def places(runs: list[Run]) -> list[str]:
    """Where the vectors of each run lie, by epoch."""
    keys = ("text_norm", "text_cosine_negative", "text_cosine_positive", "text_above_items", "negative_above_items")
    lines = [
        "| row | epoch | norm over `e_j`'s | cosine with `e_j` | with the positive | above items | `e_j` above items |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        for epoch in ("0", "3", "15", "31"):
            cells = " | ".join(f"{run['negatives'][epoch][key]:.2f}" for key in keys)
            lines.append(f"| {run['row']} | {epoch} | {cells} |")
    return lines


def main() -> None:
    """Print every dataset's tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()
    for folder in sorted((args.folder / "runs").iterdir()):
        runs = runs_of(folder)
        if not any(run["row"] == BASE for run in runs):
            continue
        blocks = [table(runs), *(epochs(runs, row) for row in (BASE, "teacher item", "tuned"))]
        placed = args.folder / "places" / folder.name
        if placed.is_dir():
            blocks.append(places(runs_of(placed)))
        sys.stdout.write(f"## {folder.name}\n\n" + "\n\n".join("\n".join(block) for block in blocks if block) + "\n\n")


if __name__ == "__main__":
    main()
