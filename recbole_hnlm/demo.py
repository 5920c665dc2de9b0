"""``make demo``: LightGCN on ml-100k as RecBole trains it, and the same model on HNLM negatives, selected by
validation."""

from __future__ import annotations

import sys
from typing import Any

from recbole_hnlm.quick_start import run_recbole_hnlm
from recbole_hnlm.report import comparison_lines

SHARED: dict[str, Any] = {
    "epochs": 300,
    "eval_step": 2,
    "stopping_step": 5,
    "topk": [20],
    "metrics": ["Recall", "NDCG"],
    "valid_metric": "NDCG@20",
    "eval_batch_size": 2_000_000,
    "learning_rate": 0.002,
    "torch_threads": 1,
}
RUNS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("LightGCN, RecBole", {"neg_sampler": "none"}),
    ("LightGCN, dns", {"neg_sampler": "dns", "neg_sampler_candidates": 8}),
    ("LightGCN, hnlm", {"neg_sampler": "hnlm"}),
)


def main() -> None:
    """Run the demo and print its table."""
    results = []
    for name, values in RUNS:
        sys.stderr.write(f"--- {name}\n")
        results.append((name, run_recbole_hnlm("LightGCN", "ml-100k", config_dict={**SHARED, **values})))
    lines = comparison_lines(results)
    sys.stdout.write("\nml-100k, test metrics at the best validation NDCG@20\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
