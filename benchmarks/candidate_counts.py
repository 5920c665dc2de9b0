"""How many candidates ``hnlm`` should choose among: one run each at its other defaults, by validation; resumable.

python benchmarks/candidate_counts.py run table --data-path ../shared/data --out results/road/candidates
"""

from __future__ import annotations

from screening import Rows, main

COUNTS = (4, 8, 16, 32, 64)
SHARED = {"BPR": {"learning_rate": 0.001}, "LightGCN": {"learning_rate": 0.001, "reg_weight": 1e-5}}
"""Model -> the settings that all counts share."""
POINTS = (
    ("ml-100k", "BPR"), ("amazon-office", "BPR"), ("movietweetings", "BPR"), ("goodbooks", "BPR"),
    ("ml-100k", "LightGCN"),
)  # fmt: skip


def rows_of(model: str) -> Rows:
    """``hnlm`` as it comes, but for the number of its candidates."""
    return {str(count): {"neg_sampler": "hnlm", "neg_sampler_candidates": count, **SHARED[model]} for count in COUNTS}


LINES = {point: rows_of(point[1]) for point in POINTS}

if __name__ == "__main__":
    main(__doc__, LINES, "results/road/candidates")
