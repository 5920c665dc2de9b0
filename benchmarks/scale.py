"""Time and peak memory against the number of interactions, with the exponent of growth between sizes.

python benchmarks/scale.py --sizes 100_000 1_000_000 10_000_000 --out results/scale.json

The data are those of ``synthetic.py``. Every part of every size runs in a process of its own (``scale_parts.py``) on
one thread, so that a peak belongs to one part; memory is what the process holds at its peak above the same process
with hardly any interactions, the dataset's columns included. An exponent is the slope between two sizes on logarithmic
axes: 1 is proportional, and what exceeds 1.15 is marked.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from synthetic import generate

logger = logging.getLogger("scale")

Cell = dict[str, float]
Results = dict[int, dict[str, Cell]]
"""Size -> part -> what was measured."""

ROWS: dict[str, tuple[str, float, int]] = {
    "pairs": ("tables of the training pairs, built once", 1, 0),
    "tokens": ("tokens of the training pairs as strings (a build), once", 1, 10_000_000),
    "hash": ("hash of the training pairs (a run), once", 1, 0),
    "loader": ("`PairLoader`, a batch", 1e3, 0),
    "draw 1": ("1 uniform candidate, a batch", 1e3, 0),
    "draw 32": ("32 uniform candidates, a batch", 1e3, 0),
    "adjacency RecBole": ("adjacency matrix, RecBole's dictionary, once", 1, 1_000_000),
    "adjacency": ("adjacency matrix, ours, once", 1, 0),
    "csr": ("its CSR copy, once", 1, 0),
    "propagation": ("LightGCN's propagation, 3 hops, forward and backward", 1e3, 0),
    "BPR bare": ("BPR step, bare", 1e3, 0),
    "BPR wrapped": ("BPR step, `hnlm(BPR)`, uniform", 1e3, 0),
    "LightGCN bare": ("LightGCN step, bare", 1e3, 10_000_000),
    "LightGCN wrapped": ("LightGCN step, `hnlm(LightGCN)`, uniform", 1e3, 10_000_000),
    "Adam": ("RecBole's Adam over BPR's tables, a step", 1e3, 0),
    "Adam fused": ("the same, `adam: fused`", 1e3, 0),
    "Adam rows": ("`adam: rows` at one batch's rows", 1e3, 0),
    "store write": ("store, every pair its own vector: written, once", 1, 10_000_000),
    "store open": ("store: checked and opened, once", 1, 10_000_000),
    "store read": ("store: vectors of a batch", 1e3, 10_000_000),
}
"""Part -> its name in the table, units in a second (1: seconds, 1e3: ms), largest size that is tried (0: all)."""
RATIOS = {"BPR ratio": ("BPR", 10_000_000), "LightGCN ratio": ("LightGCN", 1_000_000)}
WORSE = 1.15
_NOISE_MIB, _TINY = 24.0, 20_000


def save_data(folder: Path, size: int, seed: int) -> Cell:
    """Write the pairs as arrays; seconds and bytes of making them."""
    started = time.perf_counter()
    data = generate(size, seed)
    seconds = time.perf_counter() - started
    np.save(folder / "users.npy", data.users)
    np.save(folder / "items.npy", data.items)
    np.save(folder / "counts.npy", np.array([data.n_users, data.n_items]))
    return {"seconds": seconds, "users": data.n_users - 1, "items": data.n_items - 1}


def measure(part: str, folder: Path, timeout: float) -> Cell | None:
    """What ``scale_parts.py`` says about one part, or None where it fails or takes too long."""
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("scale_parts.py")), part, str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    try:
        run = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environment, check=False)
    except subprocess.TimeoutExpired:
        logger.warning("%s: no result after %.0f s", part, timeout)
        return None
    if run.returncode:
        logger.warning("%s: %s", part, (run.stderr.strip() or f"ended with {run.returncode}").splitlines()[-1])
        return None
    found: Cell = json.loads(run.stdout.splitlines()[-1])
    return found


def measure_size(size: int, parts: Sequence[str], seed: int, timeout: float) -> dict[str, Cell]:
    """All parts at one size."""
    found: dict[str, Cell] = {}
    limits = {part: row[2] for part, row in ROWS.items()} | {part: row[1] for part, row in RATIOS.items()}
    with tempfile.TemporaryDirectory(prefix="scale") as name:
        folder = Path(name)
        found["data"] = save_data(folder, _TINY, seed)
        idle = measure("idle", folder, timeout)
        assert idle is not None
        found["data"] = save_data(folder, size, seed)
        for part in parts:
            if limits[part] and size > limits[part]:
                continue
            cell = measure(part, folder, timeout)
            if cell is not None:
                found[part] = {**cell, "mib": cell["peak_mib"] - idle["peak_mib"]}
                logger.info("%d %s %s", size, part, found[part])
    return found


def slope(sizes: tuple[int, int], values: tuple[float, float]) -> float:
    """Exponent of growth between two sizes."""
    return math.log(values[1] / values[0]) / math.log(sizes[1] / sizes[0])


def _columns(results: Results, part: str, key: str, unit: float, least: float) -> list[str]:
    """Cells of one row: a value for each size, with the exponent since the size before."""
    cells, before = [], None
    for size in sorted(results):
        value = results[size].get(part, {}).get(key)
        if value is None:
            cells.append("–")
            continue
        shown = f"{value * unit:,.3g}" if value * unit < 100 else f"{value * unit:,.0f}"
        if before is not None and before[1] > least and value > least:
            grown = slope((before[0], size), (before[1], value))
            shown += f" ({grown:.2f}{'**!**' if grown > WORSE else ''})"
        cells.append(shown)
        before = (size, value)
    return cells


def table(results: Results) -> Iterator[str]:
    """Lines of the Markdown tables."""
    sizes = sorted(results)
    for size in sizes:
        data = results[size]["data"]
        yield (
            f"- {size:,} interactions: {data['users']:,.0f} users, {data['items']:,.0f} items, made in "
            f"{data['seconds']:.2f} s"
        )
    heads: Mapping[str, tuple[str, float]] = {"time": ("seconds", 0.0), "peak memory, MiB": ("mib", _NOISE_MIB)}
    for title, (key, least) in heads.items():
        yield ""
        yield f"| {title} | unit | " + " | ".join(f"{size:,}" for size in sizes) + " |"
        yield "|---|---|" + "---:|" * len(sizes)
        for part, (name, unit, _) in ROWS.items():
            shown = ("s" if unit == 1 else "ms") if key == "seconds" else "MiB"
            cells = _columns(results, part, key, unit if key == "seconds" else 1, least)
            yield f"| {name} | {shown} | " + " | ".join(cells) + " |"
    yield ""
    yield "| wrapped step : bare step | " + " | ".join(f"{size:,}" for size in sizes) + " |"
    yield "|---|" + "---:|" * len(sizes)
    for part, (name, _) in RATIOS.items():
        ratios = [results[size].get(part, {}).get("seconds") for size in sizes]
        yield f"| {name} | " + " | ".join("–" if ratio is None else f"{ratio:.2f}" for ratio in ratios) + " |"


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--parts", nargs="+", choices=[*ROWS, *RATIOS], default=[*ROWS, *RATIOS])
    parser.add_argument("--seed", type=int, default=2020)
    parser.add_argument("--timeout", type=float, default=600, help="seconds after which a part is given up")
    parser.add_argument("--out", type=Path, help="JSON file of the measurements; sizes and parts already there stay")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    results: Results = {}
    if args.out is not None and args.out.is_file():
        results = {int(size): cells for size, cells in json.loads(args.out.read_text()).items()}
    for size in args.sizes:
        results.setdefault(size, {}).update(measure_size(size, args.parts, args.seed, args.timeout))
        if args.out is not None:
            args.out.parent.mkdir(parents=True, exist_ok=True)
            args.out.write_text(json.dumps(results, indent=1) + "\n")
    versions = f"Python {platform.python_version()}, numpy {np.__version__}, {os.cpu_count()} cores, 1 thread"
    sys.stdout.write("\n".join([versions, "", *table(results)]) + "\n")


if __name__ == "__main__":
    main()
