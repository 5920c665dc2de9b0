"""Does the vector of a fine-tuned model help training? Artefacts of several kinds on one split, rows of several seeds.

python benchmarks/hybrid_rows.py --dataset amazon-office --data-path ../shared/data --out results/hybrid build rows
"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from accuracy import SEEDS, Ledger, Run

FILTERS: dict[str, dict[str, Any]] = {
    "goodbooks": {"val_interval": {"rating": "[4,inf)"}},
    "movietweetings": {"user_inter_num_interval": "[5,inf)", "item_inter_num_interval": "[5,inf)"},
}
"""What of each dataset is taken: ratings of 4 and above, the 5-core."""
HYBRID = {
    "llm_negatives": "hybrid",
    "llm_precision": "bfloat16",
    "llm_prompt_tokens": 128,
    "llm_label_tokens": 64,
    "llm_user_history": 10,
    "llm_tune_pairs": 8000,
    "llm_tune_lora_dropout": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "teacher": {"llm_user_history": 10, "llm_teacher_draw_candidates": 256},
    "untuned": {**HYBRID, "llm_tune_epochs": 0},
    "tuned": HYBRID,
    "grounded": {**HYBRID, "llm_grounded_items": 3},
    "older teacher": {"llm_user_history": 10, "llm_teacher_draw_candidates": 256, "llm_teacher_epochs": 60},
    "tuned on older teacher": {**HYBRID, "llm_teacher_epochs": 60},
}
ALPHAS = (0.05, 0.2)
SMALL_ALPHAS = (0.005, 0.02)
RATES = (0.001, 0.005)
KNOBS = {
    "lambda1": [{"hnlm_alignment_weight": weight} for weight in (0.0003, 0.003)],
    "two negatives": [{"neg_sampler_num": 2}],
}
"""Settings of the teacher item's row, of the tuned row, and of those that mix nothing, beside alpha."""

PLACED = ("teacher item", "tuned", "tuned, Gaussian pairs")
"""Rows of which is told, on the first seed, where the vectors lie."""


def base_config(args: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Settings that all rows share; every seed trains on the same split."""
    return {
        "data_path": str(Path(args.out).resolve() / "data"), "benchmark_filename": ["train", "valid", "test"],
        "embedding_size": 64, "n_layers": 3, "train_batch_size": 2048, "epochs": 300, "eval_step": 2,
        "stopping_step": 8, "topk": [20], "metrics": ["Recall", "NDCG"], "valid_metric": "NDCG@20",
        "eval_batch_size": 4_000_000, "seed": seed, "show_progress": False, "state": args.state, "torch_threads": 1,
        "checkpoint_dir": f"{args.out}/saved/{args.dataset}-{args.part}", "metric_decimal_place": 5,
        "neg_sampler": "hnlm", "neg_sampler_candidates": 8, "llm_cache_dir": f"{args.out}/cache/{args.dataset}",
        "hnlm_log_false_negatives": True,
    }  # fmt: skip


def write_split(args: argparse.Namespace) -> None:
    """Filter the dataset and split it 8:1:1 by user, once for all seeds, as RecBole does with the first seed."""
    from recbole.data import create_dataset
    from recbole.utils import init_seed

    from recbole_hnlm.config import HNLMConfig

    folder = Path(args.out) / "data" / args.dataset
    if (folder / f"{args.dataset}.test.inter").is_file():
        return
    filters = {"data_path": args.data_path, "neg_sampler": "uniform", "load_col": None, **FILTERS.get(args.dataset, {})}
    config = HNLMConfig("BPR", args.dataset, config_dict=filters)
    init_seed(SEEDS[0], True)
    dataset = create_dataset(config)
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in ("item", "user"):
        source = Path(config["data_path"]) / f"{args.dataset}.{suffix}"
        if source.is_file():
            shutil.copy(source, folder)
    wanted = (dataset.uid_field, dataset.iid_field, dataset.time_field)
    fields = [field for field in wanted if field in dataset.inter_feat]
    kinds = [f"{field}:{'float' if field == dataset.time_field else 'token'}" for field in fields]
    for part, name in zip(dataset.build(), ("train", "valid", "test"), strict=True):
        feat = part.inter_feat
        ids = [dataset.id2token(field, feat[field].numpy()).tolist() for field in fields[:2]]
        columns = [*ids, *(feat[field].tolist() for field in fields[2:])]
        lines = ["\t".join(kinds), *("\t".join(map(str, row)) for row in zip(*columns, strict=True))]
        (folder / f"{args.dataset}.{name}.inter").write_text("\n".join(lines) + "\n")


def build(args: argparse.Namespace, variant: str) -> None:
    """Make the artefacts of one variant."""
    from recbole_hnlm.config import HNLMConfig
    from recbole_hnlm.quick_start import prepare

    folder = str(Path(args.out) / "artefacts" / args.dataset / variant)
    values = {**base_config(args, SEEDS[0]), **VARIANTS[variant], "hnlm_artefact_dir": folder, "hnlm_alpha": 0.2}
    prepare(HNLMConfig("LightGCN", args.dataset, config_dict=values))


def run_once(args: argparse.Namespace, row: str, variant: str, values: dict[str, Any], seed: int) -> Run:
    """One training run on one variant's artefacts."""
    from recbole_hnlm.quick_start import run_recbole_hnlm

    folder = str(Path(args.out) / "artefacts" / args.dataset / variant)
    config = {**base_config(args, seed), **VARIANTS[variant], **values, "hnlm_artefact_dir": folder}
    started = time.perf_counter()
    result = run_recbole_hnlm("LightGCN", args.dataset, config_dict=config)
    Path(result["hnlm"]["checkpoint"]).unlink(missing_ok=True)
    told = result["hnlm"]["negatives"]
    return {
        "row": row, "seed": seed, "values": values,
        "valid": {k: float(v) for k, v in result["best_valid_result"].items()},
        "test": {k: float(v) for k, v in result["test_result"].items()},
        "epochs": result["hnlm"]["epochs"], "best_epoch": result["hnlm"]["best_epoch"],
        "seconds": time.perf_counter() - started,
        "negatives": {str(epoch): told[epoch] for epoch in (0, 1, 3, 7, 15, 31, 63) if epoch < len(told)},
    }  # fmt: skip


def rows_of(rate: float) -> dict[str, tuple[str, list[dict[str, Any]]]]:
    """Row -> its artefacts and the points that validation chooses from."""
    fixed = {"learning_rate": rate}
    mixed = [{**fixed, "hnlm_alpha": alpha} for alpha in ALPHAS]
    near = {**fixed, "hnlm_alpha": 0.0, "hnlm_base_sampler": "semantic"}
    ways = {
        "an extra negative": [{**fixed, "hnlm_use": "extra", "hnlm_alpha": alpha} for alpha in (0.2, 1.0)],
        "competing by score": [{**point, "hnlm_use": "compete"} for point in mixed],
        "alpha growing": [{**point, "hnlm_alpha_epochs": 20} for point in mixed],
        "little of it": [{**fixed, "hnlm_alpha": alpha} for alpha in SMALL_ALPHAS],
    }
    unmixed = {"teacher item": "alpha 0", "tuned": "alpha 0, tuned items"}
    older = "tuned on a teacher of 60 epochs"
    rows = {
        "alpha 0": ("teacher", [{**fixed, "hnlm_alpha": 0.0}]),
        "teacher item": ("teacher", mixed),
        "alpha 0, untuned items": ("untuned", [{**fixed, "hnlm_alpha": 0.0}]),
        "untuned": ("untuned", mixed),
        "alpha 0, tuned items": ("tuned", [{**fixed, "hnlm_alpha": 0.0}]),
        "tuned": ("tuned", mixed),
        "tuned, permuted pairs": ("tuned", [{**point, "hnlm_control": "pairs_permuted"} for point in mixed]),
        "tuned, Gaussian pairs": ("tuned", [{**point, "hnlm_control": "pairs_gaussian"} for point in mixed]),
        "teacher of 60 epochs, its item": ("older teacher", mixed),
        f"alpha 0, items {older}": ("tuned on older teacher", [{**fixed, "hnlm_alpha": 0.0}]),
        older: ("tuned on older teacher", mixed),
    }
    for row, plain in unmixed.items():
        variant = rows[row][0]
        rows |= {f"{row}, {way}": (variant, points) for way, points in ways.items()}
        for knob, points in KNOBS.items():
            for name, alpha in ((plain, 0.0), (row, 0.05)):
                rows[f"{name}, {knob}"] = (variant, [{**fixed, "hnlm_alpha": alpha, **point} for point in points])
    rows["nearest items of tuned"] = ("grounded", [{**near, "neg_sampler_share": share} for share in (0.02, 0.1)])
    return rows


def train_rows(args: argparse.Namespace) -> None:
    """The learning rate by validation of the first row, each row's alpha by its own, then every seed."""
    ledger = Ledger(Path(args.out) / "runs" / args.dataset, args.part)

    def done(row: str, variant: str, values: dict[str, Any], seed: int) -> Run:
        return ledger.find(row, values, seed) or ledger.add(run_once(args, row, variant, values, seed))

    def score(run: Run) -> float:
        return float(run["valid"]["ndcg@20"])

    first = {rate: done("alpha 0", "teacher", {"learning_rate": rate, "hnlm_alpha": 0.0}, SEEDS[0]) for rate in RATES}
    rate = max(RATES, key=lambda rate: score(first[rate]))
    for row, (variant, points) in rows_of(rate).items():
        if args.rows and row not in args.rows:
            continue
        best = max((done(row, variant, point, SEEDS[0]) for point in points[: args.points]), key=score)
        for seed in SEEDS[: args.seeds]:
            done(row, variant, best["values"], seed)


def place_rows(args: argparse.Namespace) -> None:
    """The first seed of a few rows once more, at the point that was chosen, for what they tell of their vectors."""
    runs = Ledger(Path(args.out) / "runs" / args.dataset, args.part).runs
    ledger = Ledger(Path(args.out) / "places" / args.dataset, args.part)
    for row in PLACED:
        tried = [run for run in runs if run["row"] == row and run["seed"] == SEEDS[0]]
        values = max(tried, key=lambda run: float(run["valid"]["ndcg@20"]))["values"]
        if ledger.find(row, values, SEEDS[0]) is None:
            ledger.add(run_once(args, row, rows_of(0.0)[row][0], values, SEEDS[0]))


def main() -> None:
    """Read the arguments and do what they name."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", nargs="+", choices=["split", "build", "rows", "places"])
    parser.add_argument("--dataset", default="amazon-office")
    parser.add_argument("--data-path", default="../shared/data")
    parser.add_argument("--out", default="results/hybrid")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--rows", nargs="*", default=[])
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--points", type=int, default=None, help="how many of a row's points are tried (default: all)")
    parser.add_argument("--part", default="a", help="name of this process's ledger")
    parser.add_argument("--state", default="ERROR", help="level of the log")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]
    warnings.filterwarnings("ignore")
    write_split(args)
    if "build" in args.work:
        for variant in args.variants:
            build(args, variant)
    if "rows" in args.work:
        train_rows(args)
    if "places" in args.work:
        place_rows(args)


if __name__ == "__main__":
    main()
