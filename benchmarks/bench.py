"""The table of speed: every promise against its peer, in one run; ``make bench``.

python benchmarks/bench.py [--out results/speed.md] [--data-path ../shared/data]

About ten minutes on two cores. Ratios above 1 mean that this package is faster, or smaller for memory; all
contestants of a row take turns in one run, on as many threads as told. Without the real data a power law of the same
size stands in for yelp2018.
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import drawing  # noqa: E402
import encoding  # noqa: E402
import numpy  # noqa: E402
import torch  # noqa: E402
import training  # noqa: E402
import training_memory  # noqa: E402
import vectors  # noqa: E402
from result import Result, table  # noqa: E402
from training_data import folder_of_data  # noqa: E402

BEGIN, END = "<!-- speed: begin -->", "<!-- speed: end -->"
PARTS = ("drawing", "training", "memory", "vectors", "encoding")


def measurements(args: argparse.Namespace, work: Path) -> dict[str, Callable[[], list[Result]]]:
    """What each part measures."""
    return {
        "drawing": lambda: drawing.measure(args.rounds, args.data_path),
        "training": lambda: training.measure(args.rounds, args.data_path, work),
        "memory": lambda: training_memory.measure(2, args.data_path, work),
        "vectors": lambda: vectors.measure(args.rounds, folder=work, parts=("read",)),
        "encoding": lambda: encoding.measure(args.rounds, args.data_path),
    }


def processor() -> str:
    """The processor's name where Linux tells it."""
    with open("/proc/cpuinfo", encoding="utf-8") as handle:
        names = [line.split(":", 1)[1].strip() for line in handle if line.startswith("model name")]
    return names[0] if names else platform.processor()


def report(args: argparse.Namespace, work: Path) -> Iterator[str]:
    """Lines of the page."""
    _, origin = folder_of_data(args.data_path.resolve(), work)
    yield f"{origin}; batches of 2048, D 64, 3 layers; {args.threads} thread(s), {args.rounds} rounds by turns;"
    yield f"Python {platform.python_version()}, torch {torch.__version__}, numpy {numpy.__version__}, {processor()}."
    yield ""
    results: list[Result] = []
    for name, measure in measurements(args, work).items():
        if name in args.parts.split(","):
            sys.stderr.write(f"{name} ...\n")
            results += measure()
    yield from table(results)
    missed = [found.work for found in results if found.wanted is not None and found.ratio < found.wanted]
    yield ""
    yield f"Below what is wanted: {'; '.join(missed) or 'nothing'}."


def main() -> None:
    """Print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, default=Path("../shared/data"), help="folder that holds yelp2018/")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are measured")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contestant")
    parser.add_argument("--parts", default=",".join(PARTS), help="what to measure")
    parser.add_argument("--out", type=Path, default=None, help="file that gets the page")
    parser.add_argument("--readme", type=Path, default=None, help="file whose block of speed gets the page")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as work:
        page = "\n".join(report(args, Path(work))) + "\n"
    sys.stdout.write(page)
    if args.readme is not None:
        text = args.readme.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        args.readme.write_text(f"{before}{BEGIN}\n{page}{END}{rest.partition(END)[2]}", encoding="utf-8")
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
