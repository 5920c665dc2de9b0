"""Peak memory of a training process: LightGCN with hard negatives through this package, against RecBole by itself.

python benchmarks/training_memory.py [--data-path ../shared/data]

Each contestant is a process of its own: it reads the data, makes the model and trains some steps.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

from result import Result, table
from training import HNLM, Contestant
from training_data import ensure_vectors, folder_of_data

from recbole_hnlm.training.watching import peak_memory_mib

LIMIT = 1.2
STEPS = 12
CONTESTANTS = {"RecBole": (True, {}), "hnlm": (False, HNLM)}


def peak(name: str, data_path: Path, work: Path) -> float:
    """Peak resident memory in MiB of a process that trains one contestant."""
    command = [sys.executable, __file__, "--child", name, "--data-path", str(data_path), "--work", str(work)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def measure(repeats: int = 2, data_path: Path = Path("../shared/data"), work: Path | None = None) -> list[Result]:
    """One row: how often ours fits into RecBole's peak."""
    if work is None:
        with tempfile.TemporaryDirectory() as place:
            return measure(repeats, data_path, Path(place))
    data, _ = folder_of_data(data_path.resolve(), work)
    ensure_vectors(data, work)
    rounds = [{name: peak(name, data, work) for name in CONTESTANTS} for _ in range(repeats)]
    ratios = sorted(found["RecBole"] / found["hnlm"] for found in rounds)
    last = rounds[-1]
    note = f"peaks {last['RecBole']:,.0f} and {last['hnlm']:,.0f} MiB; ours may take {LIMIT} times RecBole's"
    middle = ratios[len(ratios) // 2]
    work_done = "memory of LightGCN + hnlm training"
    return [Result(work_done, "RecBole's LightGCN", middle, ratios[0], ratios[-1], round(1 / LIMIT, 2), note)]


def main() -> None:
    """Print the row; as a child, train and print the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, default=Path("../shared/data"), help="folder that holds yelp2018/")
    parser.add_argument("--child", choices=list(CONTESTANTS), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if args.child:
        plain, values = CONTESTANTS[args.child]
        Contestant("LightGCN", args.data_path, args.work, plain, dict(values)).seconds(STEPS)
        sys.stdout.write(f"{peak_memory_mib()}\n")
        return
    sys.stdout.write("\n".join(table(measure(2, args.data_path))) + "\n")


if __name__ == "__main__":
    main()
