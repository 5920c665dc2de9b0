"""Peak memory of a training process through this package, against RecBole by itself.

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
from training import HNLM, UNIFORM, Contestant
from training_data import ensure_vectors, folder_of_data

from recbole_hnlm.training.watching import peak_memory_mib

LIMIT = 1.2
STEPS = {"LightGCN": 12, "SGL": 2}
RUNS = {"LightGCN": ("LightGCN + hnlm", HNLM), "SGL": ("SGL + uniform", UNIFORM)}


def peak(model: str, plain: bool, data_path: Path, work: Path) -> float:
    """Peak resident memory in MiB of a process that trains one contestant."""
    command = [sys.executable, __file__, "--child", model, "--data-path", str(data_path), "--work", str(work)]
    command += ["--plain"] if plain else []
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=work)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def measure(repeats: int = 2, data_path: Path = Path("../shared/data"), work: Path | None = None) -> list[Result]:
    """A row a model: how often ours fits into RecBole's peak."""
    if work is None:
        with tempfile.TemporaryDirectory() as place:
            return measure(repeats, data_path, Path(place))
    data, _ = folder_of_data(data_path.resolve(), work)
    ensure_vectors(data, work)
    return [_row(model, repeats, data, work) for model in RUNS]


def _row(model: str, repeats: int, data: Path, work: Path) -> Result:
    rounds = [[peak(model, plain, data, work) for plain in (True, False)] for _ in range(repeats)]
    ratios = sorted(theirs / ours for theirs, ours in rounds)
    theirs, ours = rounds[-1]
    note = f"peaks {theirs:,.0f} and {ours:,.0f} MiB; ours may take {LIMIT} times RecBole's"
    work_done = f"memory of {RUNS[model][0]} training"
    middle = ratios[len(ratios) // 2]
    return Result(work_done, f"RecBole's {model}", middle, ratios[0], ratios[-1], round(1 / LIMIT, 2), note)


def main() -> None:
    """Print the row; as a child, train and print the peak."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, default=Path("../shared/data"), help="folder that holds yelp2018/")
    parser.add_argument("--child", choices=list(RUNS), help=argparse.SUPPRESS)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    if args.child:
        values = {} if args.plain else RUNS[args.child][1]
        Contestant(args.child, args.data_path, args.work, args.plain, dict(values)).seconds(STEPS[args.child])
        sys.stdout.write(f"{peak_memory_mib()}\n")
        return
    sys.stdout.write("\n".join(table(measure(2, args.data_path))) + "\n")


if __name__ == "__main__":
    main()
