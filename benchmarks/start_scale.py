"""How large a start from text should be, and whether it should be spread over the training pairs: one run each, judged
on validation; resumable.

python benchmarks/start_scale.py run table --data-path ../shared/data --out results/road/start-scale
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from accuracy import SEEDS, Ledger
from hybrid_rows import FILTERS
from road import train_missing

TEXT = {"neg_sampler": "hnlm", "hnlm_alpha": 0.0}
STARTS: dict[str, dict[str, Any]] = {
    "dns": {"neg_sampler": "dns"},
    "own start": {**TEXT, "hnlm_init": "random"},
    **{
        f"{scale}": {**TEXT, "hnlm_init_hops": 0, "hnlm_init_scale": scale}
        for scale in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
    },
    **{f"{scale}, spread": {**TEXT, "hnlm_init_hops": 3, "hnlm_init_scale": scale} for scale in (0.02, 0.2)},
}
"""What the rows start from: nothing of text, the model's own start with alignment, or text at a scale."""
GRAPH = {"learning_rate": 0.001, "reg_weight": 1e-5}
POINTS: dict[tuple[str, str], dict[str, Any]] = {
    ("amazon-office", "BPR"): {"learning_rate": 0.0015, "weight_decay": 1e-5, "neg_sampler_candidates": 8},
    ("goodbooks", "BPR"): {"learning_rate": 0.001, "neg_sampler_candidates": 32},
    ("movietweetings", "BPR"): {"learning_rate": 0.001, "neg_sampler_candidates": 16},
    ("ml-100k", "BPR"): {"learning_rate": 0.001, "neg_sampler_candidates": 8},
    ("amazon-office", "LightGCN"): {**GRAPH, "neg_sampler_candidates": 8},
    ("movietweetings", "LightGCN"): {**GRAPH, "neg_sampler_candidates": 16},
    ("ml-100k", "LightGCN"): {**GRAPH, "neg_sampler_candidates": 8},
}
"""Dataset and model -> the settings that all starts share."""
COLUMNS = {"inter": ["user_id", "item_id", "rating"], "item": ["item_id", "title", "authors", "genres"]}
DATA = {**FILTERS, "goodbooks": {**FILTERS["goodbooks"], "load_col": COLUMNS}}
"""What of each dataset is taken."""


def rows_of(shared: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The starts at the settings that they share."""
    return {name: {**values, **shared} for name, values in STARTS.items()}


def ledger_of(out: str, dataset: str, model: str) -> Ledger:
    """The finished runs of a dataset and a model."""
    return Ledger(Path(out) / f"{dataset}-{model}", "a")


def table(out: str) -> list[str]:
    """Lines of a Markdown table, validation NDCG@20."""
    lines = [f"| | {' | '.join(STARTS)} |", "|---" * (1 + len(STARTS)) + "|"]
    for (dataset, model), shared in POINTS.items():
        ledger = ledger_of(out, dataset, model)
        runs = [ledger.find(name, values, SEEDS[0]) for name, values in rows_of(shared).items()]
        cells = [f"{run['valid']['ndcg@20']:.4f}" if run else "" for run in runs]
        lines.append(f"| {model}, {dataset} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    """Train what is missing, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="+", choices=["run", "table"])
    parser.add_argument("--data-path", default="../shared/data")
    parser.add_argument("--out", default="results/road/start-scale")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]
    warnings.filterwarnings("ignore")
    if "run" in args.work:
        for (dataset, model), shared in POINTS.items():
            told = {"dataset": dataset, "model": model, "out": f"{args.out}/work/{dataset}", "epochs": 300}
            given = argparse.Namespace(**{**vars(args), **told, "config": json.dumps(DATA.get(dataset, {}))})
            train_missing(ledger_of(args.out, dataset, model), rows_of(shared), given)
    if "table" in args.work:
        sys.stdout.write("\n".join(table(args.out)) + "\n")


if __name__ == "__main__":
    main()
