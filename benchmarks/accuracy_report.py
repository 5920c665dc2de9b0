"""The table of benchmarks/accuracy.py: mean and standard deviation over seeds at each row's best validation point.

python benchmarks/accuracy_report.py results/amazon-office
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ID_ONLY = ("uniform", "dns", "mixgcf", "ahns", "dins")
METRICS = ("recall@20", "ndcg@20")
Run = dict[str, Any]


def read_runs(folder: Path) -> list[Run]:
    """Every finished run of a folder."""
    return [json.loads(line) for file in sorted(folder.glob("runs-*.jsonl")) for line in file.read_text().splitlines()]


def chosen_runs(runs: list[Run], row: str, allowed: Callable[[Run], bool]) -> list[Run]:
    """The runs of a row, one a seed, at the point that was best on the first seed's validation split."""
    own = [run for run in runs if run["row"] == row and allowed(run)]
    if not own:
        return []
    first = min(run["seed"] for run in own)
    best = max((run for run in own if run["seed"] == first), key=lambda run: float(run["valid"]["ndcg@20"]))
    same = [run for run in own if run["values"] == best["values"]]
    return sorted(same, key=lambda run: int(run["seed"]))


def cell(runs: list[Run], metric: str) -> str:
    """``mean sd`` of a test metric."""
    values = np.array([run["test"][metric] for run in runs])
    return f"{values.mean():.4f} ± {values.std(ddof=1) if len(values) > 1 else 0:.4f}"


def against(runs: list[Run], base: list[Run], metric: str) -> str:
    """Relative gain over the base and the p of a paired t-test over the common seeds."""
    ours, theirs = ({run["seed"]: run["test"][metric] for run in group} for group in (runs, base))
    seeds = sorted(ours.keys() & theirs.keys())
    a, b = np.array([ours[s] for s in seeds]), np.array([theirs[s] for s in seeds])
    p = stats.ttest_rel(a, b).pvalue if len(seeds) > 1 and np.any(a != b) else float("nan")
    return f"{100 * (a.mean() / b.mean() - 1):+.1f} % (p {p:.2g})"


def table(runs: list[Run], allowed: Callable[[Run], bool]) -> list[str]:
    """Markdown lines of all rows, compared with the best id-only row by validation."""
    rows = list(dict.fromkeys(run["row"] for run in runs))
    chosen = {row: chosen_runs(runs, row, allowed) for row in rows}
    most = max(len(group) for group in chosen.values())
    chosen = {row: group for row, group in chosen.items() if len(group) == most}  # rows with every seed
    valid = {row: np.mean([run["valid"]["ndcg@20"] for run in chosen[row]]) for row in ID_ONLY if chosen.get(row)}
    base = max(valid, key=lambda row: float(valid[row]))
    lines = [
        "| row | R@20 | N@20 | R@20 vs " + base + " | N@20 vs " + base + " | seeds | point |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, group in chosen.items():
        cells = [cell(group, metric) for metric in METRICS]
        gains = [against(group, chosen[base], metric) if row != base else "" for metric in METRICS]
        lines.append("| " + " | ".join([row, *cells, *gains, str(len(group)), point(group[0]["values"])]) + " |")
    return lines


def point(values: dict[str, Any]) -> str:
    """The tuned values of a row, briefly."""
    short = {"learning_rate": "lr", "reg_weight": "l2", "neg_sampler_candidates": "C"}
    return ", ".join(f"{name} {values[key]:g}" for key, name in short.items() if key in values)


def main(folders: Iterable[str]) -> None:
    """Write ``table.md`` into each folder and to standard output."""
    for folder in map(Path, folders):
        runs = read_runs(folder)
        lines = [f"# {folder.name}", "", *table(runs, lambda run: True)]
        for rate in (0.001, 0.005):
            at_rate = table(runs, lambda run, rate=rate: run["values"]["learning_rate"] == rate)  # type: ignore[misc]
            lines += ["", f"## At learning rate {rate:g}", "", *at_rate]
        (folder / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
        sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
