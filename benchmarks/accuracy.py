"""Accuracy table: every row tuned alike on validation, then trained with several seeds; resumable, one JSON line a run.

python benchmarks/accuracy.py --dataset amazon-office --data-path ../shared/data --out results/amazon-office [--part
0/2]
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

Run = dict[str, Any]
ID_ONLY = {
    "uniform": {"neg_sampler": "uniform"},
    "dns": {"neg_sampler": "dns"},
    "mixgcf": {"neg_sampler": "mixgcf"},
    "ahns": {"neg_sampler": "ahns"},
    "dins": {"neg_sampler": "dins"},
}
ALIGN = {"neg_sampler": "hnlm", "hnlm_init": "random", "hnlm_alpha": 0.0}
WARM = {"neg_sampler": "hnlm", "hnlm_alignment_weight": 0.0, "hnlm_alpha": 0.0}
BOTH = {"neg_sampler": "hnlm", "hnlm_alpha": 0.0}
TEXT = {
    f"{kind}+{rule}": {**values, "hnlm_base_sampler": rule}
    for (kind, values), rule in itertools.product((("align", ALIGN), ("warm", WARM), ("both", BOTH)), ("dns", "mixgcf"))
}
DEFAULT = {"neg_sampler": "hnlm", "hnlm_base_sampler": "dns"}
ROWS: dict[str, dict[str, Any]] = {**ID_ONLY, **TEXT, "hnlm default": DEFAULT}
CONTROLS = {
    f"{name} permuted": {**ROWS[name], "hnlm_control": "permuted"}
    for name in ("align+dns", "warm+dns", "both+dns", "hnlm default")
}
KNOB = {  # the rule's own main knob, two values for every row
    "uniform": [{}],
    "dns": [{"neg_sampler_candidates": 4}, {"neg_sampler_candidates": 8}],
    "mixgcf": [{"neg_sampler_candidates": 8}, {"neg_sampler_candidates": 16}],
    "ahns": [{"neg_sampler_candidates": 8}, {"neg_sampler_candidates": 32}],
    "dins": [{"neg_sampler_candidates": 8}, {"neg_sampler_candidates": 16}],
}
ALIGN_KNOB = [
    {"hnlm_alignment_weight": 0.003},
    {"hnlm_alignment_weight": 0.01},
]  # from a random start the weight matters
RATES = [0.001, 0.005]
L2 = [1e-5, 1e-3]
SEEDS = (2020, 2021, 2022, 2023, 2024)


def base_config(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Settings that all rows share."""
    return {
        "data_path": str(Path(args.data_path).resolve()), "embedding_size": 64, "n_layers": 3, "train_batch_size": 2048,
        "epochs": args.epochs, "eval_step": 2, "stopping_step": 8, "topk": [20], "metrics": ["Recall", "NDCG"],
        "valid_metric": "NDCG@20", "eval_batch_size": 4_000_000, "seed": seed, "show_progress": False, "state": "ERROR",
        "torch_threads": 1, "checkpoint_dir": f"{args.out}/saved/{os.getpid()}", "metric_decimal_place": 5,
        **json.loads(args.config),
    }  # fmt: skip


def run_once(args: argparse.Namespace, row: str, values: dict[str, Any], seed: int) -> Run:
    """One training run: validation and test metrics at the best validation epoch."""
    from recbole_hnlm.quick_start import run_recbole_hnlm

    config = {**base_config(args, seed), **values}
    if values["neg_sampler"] == "hnlm":
        config["hnlm_artefact_dir"] = f"{args.out}/artefacts/{seed}"
        config["llm_cache_dir"] = f"{args.out}/cache"
    started = time.perf_counter()
    result = run_recbole_hnlm(args.model, args.dataset, config_dict=config)
    Path(result["hnlm"]["checkpoint"]).unlink(missing_ok=True)
    return {
        "row": row, "seed": seed, "values": values,
        "valid": {k: float(v) for k, v in result["best_valid_result"].items()},
        "test": {k: float(v) for k, v in result["test_result"].items()},
        "epochs": result["hnlm"]["epochs"], "best_epoch": result["hnlm"]["best_epoch"],
        "seconds_per_epoch": result["hnlm"]["seconds_per_epoch"], "seconds": time.perf_counter() - started,
    }  # fmt: skip


class Ledger:
    """Finished runs on disk; a run that is there is never trained again."""

    def __init__(self, folder: Path, part: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"runs-{part.replace('/', 'of')}.jsonl"
        self.runs = [json.loads(line) for file in folder.glob("runs-*.jsonl") for line in file.read_text().splitlines()]

    def find(self, row: str, values: dict[str, Any], seed: int) -> Run | None:
        """The finished run of a row at a point with a seed, or None."""
        for run in self.runs:
            if run["row"] == row and run["values"] == values and run["seed"] == seed:
                return run
        return None

    def add(self, run: Run) -> Run:
        """Keep a finished run, on disk too, and hand it back."""
        self.runs.append(run)
        with self.path.open("a") as file:
            file.write(json.dumps(run) + "\n")
        return run


def rule_of(values: dict[str, Any]) -> str:
    """The id-only rule of a row."""
    return str(values.get("hnlm_base_sampler", values["neg_sampler"]))


def knob_of(values: dict[str, Any]) -> list[dict[str, Any]]:
    """The two values of a row's main knob: its candidates, or the weight where only the alignment brings text."""
    candidates = KNOB[rule_of(values)]
    if values.get("hnlm_init") != "random":
        return candidates
    return [{**candidates[-1], **weight} for weight in ALIGN_KNOB]


def tuned(args: argparse.Namespace, ledger: Ledger, row: str, values: dict[str, Any], rates: list[float]) -> Run:
    """The best run of a row on the first seed by validation: learning rate by knob, then l2 at the best of these."""

    def tried(point: dict[str, Any]) -> Run:
        full = {**values, **point}
        run = ledger.find(row, full, SEEDS[0]) or ledger.add(run_once(args, row, full, SEEDS[0]))
        return run

    def score(run: Run) -> float:
        return float(run["valid"]["ndcg@20"])

    grid = itertools.product(rates, knob_of(values))
    best = max((tried({"learning_rate": rate, "reg_weight": L2[0], **knob}) for rate, knob in grid), key=score)
    others = (tried({**best["values"], "reg_weight": reg}) for reg in L2[1:])
    return max((best, *others), key=score)


def tune_then_seed(args: argparse.Namespace, ledger: Ledger, row: str, values: dict[str, Any]) -> None:
    """The whole budget of one row, the same for every row, then every seed at the best point."""
    points = [tuned(args, ledger, row, values, RATES)]
    if args.both_rates:
        points += [tuned(args, ledger, row, values, [rate]) for rate in RATES]
    for point in points:
        for seed in SEEDS[: args.seeds]:
            if ledger.find(row, point["values"], seed) is None:
                ledger.add(run_once(args, row, point["values"], seed))


def main() -> None:
    """Read the arguments and work through this part's rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset", default="amazon-office")
    parser.add_argument("--data-path", default="../shared/data")
    parser.add_argument("--model", default="LightGCN")
    parser.add_argument("--out", default="results/amazon-office")
    parser.add_argument("--rows", nargs="*", default=[*ROWS, *CONTROLS])
    parser.add_argument("--part", default="0/1", help="k/n: every n-th row, so that n processes share the work")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--both-rates", action="store_true", help="seeds at the best point of each learning rate")
    parser.add_argument("--config", default="{}", help="JSON of settings over the shared ones")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]
    warnings.filterwarnings("ignore")
    part, parts = map(int, args.part.split("/"))
    ledger = Ledger(Path(args.out), args.part)
    for row in args.rows[part::parts]:
        tune_then_seed(args, ledger, row, {**ROWS, **CONTROLS}[row])


if __name__ == "__main__":
    np.seterr(all="ignore")
    main()
