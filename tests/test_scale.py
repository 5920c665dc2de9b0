"""The scale benchmark: its table marks what grows faster than the data, and its parts run."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("scale")


def test_the_table_marks_growth_beyond_linear_and_shows_gaps(scale: Any) -> None:
    results = {
        size: {
            "data": {"users": size / 36, "items": size / 100, "seconds": 1.0},
            "pairs": {"seconds": size * 1e-6, "mib": size / 1000},
            "hash": {"seconds": size**2 * 1e-12, "mib": 1.0},
            "BPR ratio": {"seconds": 1.25},
        }
        for size in (10_000, 1_000_000, 100_000_000)
    }
    del results[1_000_000]["hash"]
    rows = {line.split(" | ")[0]: line for line in scale.table(results)}
    time, memory = (
        next(line for line in scale.table(results) if line.startswith(f"| {scale.ROWS['pairs'][0]} | {unit} |"))
        for unit in ("s", "MiB")
    )
    assert "| 0.01 | 1 (1.00) | 100 (1.00) |" in time
    assert "| 10 | 1,000 | 100,000 (1.00) |" in memory  # the first lies below what can be told from noise
    squared = next(line for line in scale.table(results) if line.startswith(f"| {scale.ROWS['hash'][0]} | s |"))
    assert "| 0.0001 | – | 10,000 (2.00**!**) |" in squared
    assert rows["| BPR"] == "| BPR | 1.25 | 1.25 | 1.25 |"


def test_growth_is_the_slope_on_logarithmic_axes(scale: Any) -> None:
    assert scale.slope((10, 1000), (3.0, 30.0)) == pytest.approx(0.5)


@pytest.mark.parametrize("part", ["loader", "BPR wrapped", "LightGCN wrapped"])
def test_a_part_runs_in_its_own_process(tmp_path: Path, part: str) -> None:
    rng = np.random.default_rng(1)
    keys = rng.choice(50 * 80, 2500, replace=False)
    np.save(tmp_path / "users.npy", (keys // 80 + 1).astype(np.int32))
    np.save(tmp_path / "items.npy", (keys % 80 + 1).astype(np.int32))
    np.save(tmp_path / "counts.npy", np.array([51, 81]))
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "scale_parts.py"), part, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["seconds"] > 0 and found["peak_mib"] > 50
