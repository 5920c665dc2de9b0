"""What else was tried with text, one run a way, judged on validation; resumable, and a table of what there is.

python benchmarks/road.py run table --dataset amazon-office --data-path ../shared/data --out results/road
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

from accuracy import SEEDS, Ledger, Run, run_once
from hybrid_rows import FILTERS

ID_ONLY: dict[str, dict[str, Any]] = {
    "dns, C 4": {"neg_sampler": "dns", "neg_sampler_candidates": 4},
    "dns, C 8": {"neg_sampler": "dns", "neg_sampler_candidates": 8},
}
HARD: dict[str, dict[str, Any]] = {
    "dns, C 32": {"neg_sampler": "dns", "neg_sampler_candidates": 32},
    "hnlm, C 8: the default": {"neg_sampler": "hnlm", "neg_sampler_candidates": 8},
    "hnlm, C 16": {"neg_sampler": "hnlm", "neg_sampler_candidates": 16},
    "hnlm, C 16, guarded by text": {
        "neg_sampler": "hnlm",
        "neg_sampler_candidates": 16,
        "neg_sampler_guard": "text",
        "neg_sampler_guard_max_score": 0.6,
    },
    "hnlm, C 16, guarded by trees": {
        "neg_sampler": "hnlm",
        "neg_sampler_candidates": 16,
        "neg_sampler_guard": "tree",
        "neg_sampler_guard_max_score": 0.05,
    },
    "hnlm on dns_mn, 5 of 32": {
        "neg_sampler": "hnlm",
        "hnlm_base_sampler": "dns_mn",
        "neg_sampler_candidates": 32,
        "neg_sampler_top_m": 5,
    },
    "hnlm on dtl, C 8": {"neg_sampler": "hnlm", "hnlm_base_sampler": "dtl", "neg_sampler_candidates": 8},
    "hnlm on ahns, C 32": {"neg_sampler": "hnlm", "hnlm_base_sampler": "ahns", "neg_sampler_candidates": 32},
}
SOFT = {"neg_sampler": "hnlm", "hnlm_base_sampler": "uniform", "hnlm_alpha": 0.0}
MANY = {**SOFT, "ranking_loss": "sampled_softmax", "ranking_loss_temperature": 0.2, "ranking_loss_negatives": 800}
LOSSES: dict[str, dict[str, Any]] = {
    "hnlm, sampled softmax of 800": MANY,
    "hnlm, sampled softmax of 400, alignment .01": {
        **SOFT,
        "ranking_loss": "sampled_softmax",
        "ranking_loss_temperature": 0.2,
        "ranking_loss_negatives": 400,
        "hnlm_alignment_weight": 0.01,
    },
    "hnlm, sampled softmax of 800, spared .15": {**MANY, "hnlm_sparing": 0.15},
    "hnlm, sampled softmax of 800, spared .3": {**MANY, "hnlm_sparing": 0.3},
    "hnlm, psl": {**SOFT, "ranking_loss": "psl", "ranking_loss_temperature": 0.1, "ranking_loss_activation": "tanh"},
    "hnlm, bsl": {
        **SOFT,
        "ranking_loss": "bsl",
        "ranking_loss_temperature": 0.2,
        "ranking_loss_positive_temperature": 0.2,
    },
}
SPARSE: dict[str, dict[str, Any]] = {
    "sampled softmax": {
        "neg_sampler": "uniform",
        "ranking_loss": "sampled_softmax",
        "ranking_loss_temperature": 0.1,
    },
    "hnlm, C 4": {"neg_sampler": "hnlm", "neg_sampler_candidates": 4},
    "hnlm, C 8: the default": {"neg_sampler": "hnlm", "neg_sampler_candidates": 8},
    "hnlm on mixgcf, C 8": {"neg_sampler": "hnlm", "hnlm_base_sampler": "mixgcf", "neg_sampler_candidates": 8},
}
DENSE: dict[str, dict[str, Any]] = {
    "hnlm, C 4, alpha 0": {"neg_sampler": "hnlm", "neg_sampler_candidates": 4, "hnlm_alpha": 0.0}
}


def at(rate: float, l2: float, rows: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The rows at a learning rate and a weight of the regularisation."""
    return {name: {**values, "learning_rate": rate, "reg_weight": l2} for name, values in rows.items()}


ROWS = {
    "amazon-office": {**at(0.001, 1e-3, {"dns, C 8": ID_ONLY["dns, C 8"], **HARD}), **at(0.001, 1e-5, LOSSES)},
    "movietweetings": at(0.001, 1e-5, {**ID_ONLY, **SPARSE}),
    "ml-100k": at(0.001, 1e-5, {**ID_ONLY, **DENSE}),
}
"""Dataset -> way -> its settings, at a learning rate that suits all of them."""


def train_missing(ledger: Ledger, rows: dict[str, dict[str, Any]], given: argparse.Namespace) -> None:
    """Train the rows that the ledger has no run of on the first seed, one after another."""
    for name, values in rows.items():
        if ledger.find(name, values, SEEDS[0]) is None:
            ledger.add(run_once(given, name, values, SEEDS[0]))


def table(dataset: str, runs: list[Run]) -> list[str]:
    """Lines of a Markdown table in the order of :data:`ROWS`."""
    found = {run["row"]: run for run in runs}
    lines = [f"| {dataset} | validation R@20 | validation N@20 | test R@20 | test N@20 |", "|---|---|---|---|---|"]
    for name in (name for name in ROWS[dataset] if name in found):
        figures = [found[name][split][metric] for split in ("valid", "test") for metric in ("recall@20", "ndcg@20")]
        lines.append(f"| {name} | {' | '.join(f'{figure:.4f}' for figure in figures)} |")
    return lines


def main() -> None:
    """Train what is missing, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="+", choices=["run", "table"])
    parser.add_argument("--dataset", choices=list(ROWS), default="amazon-office")
    parser.add_argument("--data-path", default="../shared/data")
    parser.add_argument("--out", default="results/road")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]
    warnings.filterwarnings("ignore")
    ledger = Ledger(Path(args.out) / args.dataset, "a")
    if "run" in args.work:
        out = f"{args.out}/work/{args.dataset}"
        config = json.dumps({"n_layers": 3, **FILTERS.get(args.dataset, {})})
        given = argparse.Namespace(**{**vars(args), "out": out, "model": "LightGCN", "epochs": 300, "config": config})
        train_missing(ledger, ROWS[args.dataset], given)
    if "table" in args.work:
        sys.stdout.write("\n".join(table(args.dataset, ledger.runs)) + "\n")


if __name__ == "__main__":
    main()
