"""What it costs a step to spare negatives near to the user's text, against the same loss without, at yelp2018's size.

python benchmarks/sparing.py [--data-path ../shared/data] [--rounds 5]

BPR, batches of 2048, 800 negatives, text vectors that are random: a step takes as long whatever they say.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import tempfile
import warnings
from pathlib import Path

from result import Result, compared, table
from training import Contestant, rounds
from training_data import folder_of_data

ALONE = {
    "neg_sampler": "hnlm",
    "hnlm_base_sampler": "uniform",
    "hnlm_alpha": 0.0,
    "hnlm_alignment_weight": 0.0,
    "hnlm_init": "random",
    "hnlm_sparing": 0.3,
}
LOSSES = ("sampled_softmax", "bsl", "psl")


def measure(repeats: int, data_path: Path, steps: int = 10) -> list[Result]:
    """A row for each loss."""
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data, _ = folder_of_data(data_path.resolve(), place)
        stack.callback(os.chdir, os.getcwd())
        os.chdir(place)  # RecBole logs into the working directory
        results = []
        for loss in LOSSES:
            plain, spared = (
                Contestant("BPR", data, place, False, {**values, "ranking_loss": loss})
                for values in ({"neg_sampler": "uniform"}, ALONE)
            )
            times = rounds({"plain": plain, "spared": spared}, repeats, steps)
            results.append(compared(f"{loss}, spared, a step", loss, times["plain"], times["spared"]))
        return results


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, default=Path("../shared/data"), help="folder that holds yelp2018/")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are measured")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.stdout.write("\n".join(table(measure(args.rounds, args.data_path))) + "\n")


if __name__ == "__main__":
    main()
