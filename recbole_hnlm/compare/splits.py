"""How much the training sets of a row's seeds overlap, which a test over seeds has to know."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

_EVAL_ARGS: dict[str, Any] = {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "RO"}
"""RecBole's own, for what a user leaves out."""


def held_out_share(values: Mapping[str, Any], runs: Iterable[Mapping[str, Any]] = ()) -> float | None:
    """Test pairs for each training pair where every seed splits the same pairs anew; 0 where all seeds share a split.

    As runs have counted them: RecBole rounds each user's shares, so that users with few pairs leave out more or less
    than the settings say. Where no run tells, the settings; None where these do not either.

    Args:
        values: A run's settings.
        runs: Records of runs on the data.
    """
    told = {**_EVAL_ARGS, **(values.get("eval_args") or {})}
    if values.get("benchmark_filename") or told["order"] != "RO":
        return 0.0
    counted = [run["pairs"] for run in runs if run.get("pairs")]
    if counted:
        return sum(pairs[-1] / pairs[0] for pairs in counted) / len(counted)
    ratios = told["split"].get("RS")
    return float(ratios[-1]) / float(ratios[0]) if ratios and ratios[0] else None
