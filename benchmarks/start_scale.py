"""How large a start from text should be, and whether it should be spread over the training pairs: one run each, judged
on validation; resumable.

python benchmarks/start_scale.py run table --data-path ../shared/data --out results/road/start-scale
"""

from __future__ import annotations

from typing import Any

from screening import Point, Rows, main

TEXT = {"neg_sampler": "hnlm", "hnlm_alpha": 0.0}
STARTS: Rows = {
    "dns": {"neg_sampler": "dns"},
    "own start": {**TEXT, "hnlm_init": "random"},
    **{
        f"{scale}": {**TEXT, "hnlm_init_hops": 0, "hnlm_init_scale": scale}
        for scale in (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)
    },
    **{f"{scale}, spread": {**TEXT, "hnlm_init_hops": 3, "hnlm_init_scale": scale} for scale in (0.02, 0.2)},
    "0.2, one hop": {**TEXT, "hnlm_init_hops": 1, "hnlm_init_scale": 0.2},
}
"""What the columns start from: nothing of text, the model's own start with alignment, or text at a scale."""
GRAPH = {"learning_rate": 0.001, "reg_weight": 1e-5}
POINTS: dict[Point, dict[str, Any]] = {
    ("amazon-office", "BPR"): {"learning_rate": 0.0015, "weight_decay": 1e-5, "neg_sampler_candidates": 8},
    ("goodbooks", "BPR"): {"learning_rate": 0.001, "neg_sampler_candidates": 32},
    ("movietweetings", "BPR"): {"learning_rate": 0.001, "neg_sampler_candidates": 16},
    ("ml-100k", "BPR"): {"learning_rate": 0.001, "neg_sampler_candidates": 8},
    ("amazon-office", "LightGCN"): {**GRAPH, "neg_sampler_candidates": 8},
    ("goodbooks", "LightGCN"): {**GRAPH, "neg_sampler_candidates": 32},
    ("movietweetings", "LightGCN"): {**GRAPH, "neg_sampler_candidates": 16},
    ("ml-100k", "LightGCN"): {**GRAPH, "neg_sampler_candidates": 8},
}
"""Dataset and model -> the settings that all starts share."""
LINES = {point: {name: {**values, **shared} for name, values in STARTS.items()} for point, shared in POINTS.items()}

if __name__ == "__main__":
    main(__doc__, LINES, "results/road/start-scale")
