"""Seconds per training epoch with one process and with several, one thread each; rounds of the contestants take turns.

python benchmarks/processes.py --model LightGCN --neg-sampler dns --processes 1 2 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # inherited by every process

Times = dict[int, list[float]]


def seconds_per_epoch(args: argparse.Namespace, processes: int) -> float:
    """Mean seconds of a run's training epochs; evaluation and start are not in it."""
    from recbole_hnlm.launch import launch

    settings: dict[str, Any] = {
        "epochs": args.epochs,
        "eval_step": args.epochs,
        "train_batch_size": args.batch_size,
        "neg_sampler": args.neg_sampler,
        "use_gpu": args.use_gpu,
        "show_progress": False,
        "state": "ERROR",
        "torch_threads": 1,
        **({"data_path": args.data_path} if args.data_path else {}),
        **({"gpu_id": ",".join(map(str, range(processes)))} if args.use_gpu else {}),
    }
    group = {"nproc": processes} if processes > 1 else None
    result = launch(args.model, args.dataset, None, settings, group)
    assert result is not None  # this host has rank 0
    return float(result["hnlm"]["seconds_per_epoch"])


def report(args: argparse.Namespace, times: Times) -> str:
    """The table, with the ratio to the first contestant round by round."""
    first = times[args.processes[0]]
    lines = [
        f"{args.model}, {args.neg_sampler}, {args.dataset}, batch {args.batch_size} over all processes",
        "| processes | s/epoch, median | times as fast (its range over rounds) |",
        "|---:|---:|---:|",
    ]
    for processes, taken in times.items():
        ratios = sorted(base / own for base, own in zip(first, taken, strict=True))
        told = f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        lines.append(f"| {processes} | {statistics.median(taken):.3f} | {told} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="LightGCN")
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--data-path", default=None)
    parser.add_argument("--neg-sampler", default="dns")
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--use-gpu", action="store_true", help="a CUDA device for each process instead of the CPU")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads it too
    times: Times = {processes: [] for processes in args.processes}
    for _ in range(args.rounds):
        for processes, taken in times.items():
            taken.append(seconds_per_epoch(args, processes))
    sys.stdout.write(report(args, times) + "\n")


if __name__ == "__main__":
    main()
