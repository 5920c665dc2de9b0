"""Rows at fixed settings, one run each on the first seed, judged on validation: a script names them, this trains them
and shows what is there. Resumable."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accuracy import SEEDS, Ledger
from hybrid_rows import FILTERS
from road import train_missing

Rows = dict[str, dict[str, Any]]
"""Name of a column -> its settings."""
Point = tuple[str, str]
"""Dataset and model: a line."""
COLUMNS = {"inter": ["user_id", "item_id", "rating"], "item": ["item_id", "title", "authors", "genres"]}
DATA = {**FILTERS, "goodbooks": {**FILTERS["goodbooks"], "load_col": COLUMNS}}
"""What of each dataset is taken."""


def title(point: Point) -> str:
    """How a line is called."""
    return ", ".join(reversed(point))


def columns_of(lines: Mapping[Point, Rows]) -> list[str]:
    """Every column of the lines, each once, in their order."""
    return list(dict.fromkeys(name for rows in lines.values() for name in rows))


def ledger_of(out: str, point: Point) -> Ledger:
    """The finished runs of a line."""
    return Ledger(Path(out) / "-".join(point), "a")


def table(out: str, lines: Mapping[Point, Rows]) -> list[str]:
    """A Markdown table, validation NDCG@20; cells without a run are empty."""
    columns = columns_of(lines)
    shown = [f"| | {' | '.join(columns)} |", "|---" * (1 + len(columns)) + "|"]
    for point, rows in lines.items():
        ledger = ledger_of(out, point)
        runs = [ledger.find(name, rows[name], SEEDS[0]) if name in rows else None for name in columns]
        cells = [f"{run['valid']['ndcg@20']:.4f}" if run else "" for run in runs]
        shown.append(f"| {title(point)} | {' | '.join(cells)} |")
    return shown


def main(description: str, lines: Mapping[Point, Rows], folder: str) -> None:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("work", nargs="+", choices=["run", "table"])
    parser.add_argument("--data-path", default="../shared/data")
    parser.add_argument("--out", default=folder)
    parser.add_argument("--only", nargs="+", choices=[title(point) for point in lines], help="lines to train")
    columns = columns_of(lines)
    parser.add_argument("--columns", nargs="+", choices=columns, default=columns, help="columns to train")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]
    warnings.filterwarnings("ignore")
    if "run" in args.work:
        for point in (point for point in lines if args.only is None or title(point) in args.only):
            dataset, model = point
            told = {"dataset": dataset, "model": model, "out": f"{args.out}/work/{dataset}", "epochs": 300}
            given = argparse.Namespace(**{**vars(args), **told, "config": json.dumps(DATA.get(dataset, {}))})
            asked = {name: values for name, values in lines[point].items() if name in args.columns}
            train_missing(ledger_of(args.out, point), asked, given)
    if "table" in args.work:
        sys.stdout.write("\n".join(table(args.out, lines)) + "\n")
