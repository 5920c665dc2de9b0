"""Seconds per training epoch through this package, against RecBole by itself, at yelp2018's size.

python benchmarks/training.py [--data-path ../shared/data] [--rounds 5]

Whole steps of the real trainers with the real loaders: drawing, loss, backward, optimizer. Contestants of a table take
turns, some steps each, and the ratios are those of the rounds; an epoch is a step times the steps of one.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch  # noqa: E402
from plain_rules import PlainAHNS, PlainDINS, PlainMixGCF  # noqa: E402
from recbole.data.utils import create_samplers, get_dataloader  # noqa: E402
from recbole.utils import get_trainer, init_seed  # noqa: E402
from result import Result, compared, table  # noqa: E402
from training_data import NAME, ensure_vectors, folder_of_data, settings, training_split  # noqa: E402

from recbole_hnlm.config import HNLMConfig, PlainConfig  # noqa: E402
from recbole_hnlm.quick_start import build_model  # noqa: E402
from recbole_hnlm.training.loader import training_loader  # noqa: E402
from recbole_hnlm.training.watching import watching  # noqa: E402

C = 16
UNIFORM = {"neg_sampler": "uniform"}
DNS = {"neg_sampler": "dns", "neg_sampler_candidates": C}
HNLM = {"neg_sampler": "hnlm", "neg_sampler_candidates": C}
DYNAMIC = {"distribution": "uniform", "sample_num": 1, "dynamic": True, "candidate_num": C}
PLAIN = {"train_batch_size": 2048 * C, "train_neg_sample_args": {"distribution": "uniform", "sample_num": C}}


class SomeBatches:
    """A loader that hands out a few batches at a time and goes on where it stopped."""

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self.count = 1
        self._batches: Iterator[Any] = iter(())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.count):
            batch = next(self._batches, None)
            if batch is None:
                self._batches = iter(self.loader)
                batch = next(self._batches)
            yield batch


class Contestant:
    """A model in training.

    Args:
        model: Name or class.
        data_path: Folder of the data.
        work: Folder for files.
        plain: Whether RecBole trains it by itself.
        values: Settings on top of the shared ones.
    """

    def __init__(self, model: Any, data_path: Path, work: Path, plain: bool, values: dict[str, Any]) -> None:
        kind = PlainConfig if plain else HNLMConfig
        shared = settings(data_path, work)
        if values.get("neg_sampler") == "hnlm":
            ensure_vectors(data_path, work)
        else:
            del shared["hnlm_artefact_dir"]
        config = kind(model, NAME, config_dict={**shared, **values})
        init_seed(2020, True)
        split = training_split(data_path, work)
        sampler = create_samplers(config, None, [split, split, split])[0]
        own = get_dataloader(config, "train")(config, split, sampler, shuffle=True)
        loader = training_loader(config, (own, None, None), config.run)
        self.model = build_model(config, loader)
        if values.get("train_neg_sample_args", {}).get("dynamic"):
            loader.get_model(self.model)
        self.trainer = watching(get_trainer(config["MODEL_TYPE"], config["model"]))(config, self.model)
        if hasattr(loader, "draw_from"):
            loader.draw_from(self.model.hnlm)
        self.batches = SomeBatches(loader)
        self.epoch = len(loader)

    def seconds(self, steps: int) -> float:
        """Seconds per step over some steps."""
        self.batches.count = steps
        started = time.perf_counter()
        self.trainer._train_epoch(self.batches, 0)
        return (time.perf_counter() - started) / steps


def rounds(contestants: dict[str, Contestant], count: int, steps: int) -> dict[str, list[float]]:
    """Seconds per step of each, round by round; a first round warms up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(-1, count):
        for name, contestant in contestants.items():
            taken = contestant.seconds(2 if number < 0 else steps)
            if number >= 0:
                times[name].append(taken)
    return times


def lightgcn(data_path: Path, work: Path, repeats: int, steps: int = 6) -> list[Result]:
    """The graph model's rows."""

    def entrant(plain: bool = False, **values: Any) -> Contestant:
        return Contestant("LightGCN", data_path, work, plain, values)

    bare, dynamic = entrant(plain=True), entrant(plain=True, train_neg_sample_args=DYNAMIC)
    ours = {"uniform": entrant(**UNIFORM), "dns": entrant(**DNS), "hnlm": entrant(**HNLM)}
    times = rounds({"bare": bare, "dynamic": dynamic, **ours}, repeats, steps)
    lines = (
        ("LightGCN + uniform, epoch", "RecBole's LightGCN", "bare", "uniform", 2.5),
        (f"LightGCN + hnlm (C {C}, 512 aligned), epoch", "RecBole's LightGCN, uniform", "bare", "hnlm", 2),
        (f"LightGCN + dns (C {C}), epoch", f"RecBole's dynamic: True, {C} candidates", "dynamic", "dns", 3),
    )
    return [row(work, peer, times[a], times[b], ours[b].epoch, wanted) for work, peer, a, b, wanted in lines]


def sgl(data_path: Path, work: Path, repeats: int, steps: int = 2) -> list[Result]:
    """The row of a model that contrasts a batch's nodes with all nodes.

    Its two graphs of an epoch are made before and not timed: both make them by RecBole's own method.
    """
    bare = Contestant("SGL", data_path, work, True, {})
    ours = Contestant("SGL", data_path, work, False, UNIFORM)
    for contestant in (bare, ours):
        contestant.model.graph_construction()
        contestant.model.graph_construction = lambda: None
    times = rounds({"bare": bare, "ours": ours}, repeats, steps)
    return [row("SGL + uniform, epoch", "RecBole's SGL", times["bare"], times["ours"], ours.epoch, 2)]


def bpr(data_path: Path, work: Path, repeats: int, steps: int = 40) -> list[Result]:
    """The lookup model's rows."""

    def entrant(model: Any = "BPR", plain: bool = False, **values: Any) -> Contestant:
        return Contestant(model, data_path, work, plain, values)

    bare, hnlm, uniform = entrant(plain=True), entrant(**HNLM), entrant(**UNIFORM)
    times = rounds({"bare": bare, "uniform": uniform, "hnlm": hnlm}, repeats, steps)
    results = [
        row("BPR + uniform, epoch", "RecBole's BPR", times["bare"], times["uniform"], uniform.epoch, None),
        row(f"BPR + hnlm (C {C}), epoch", "RecBole's BPR, uniform", times["bare"], times["hnlm"], hnlm.epoch, 1),
    ]
    for rule, plain in (("mixgcf", PlainMixGCF), ("ahns", PlainAHNS), ("dins", PlainDINS)):
        peer, ours = entrant(plain, plain=True, **PLAIN), entrant(neg_sampler=rule, neg_sampler_candidates=C)
        times = rounds({"peer": peer, "ours": ours}, repeats, max(1, steps // 4))
        name = f"BPR + {rule} (C {C}), epoch"
        results.append(row(name, "the rule over RecBole's loader", times["peer"], times["ours"], ours.epoch, 1))
    return results


def row(work: str, peer: str, theirs: list[float], ours: list[float], steps: int, wanted: float | None) -> Result:
    """A comparison with the seconds of an epoch."""
    seconds = [steps * statistics.median(times) for times in (theirs, ours)]
    return compared(work, peer, theirs, ours, wanted, f"{seconds[0]:.1f} and {seconds[1]:.1f} s")


def measure(repeats: int = 5, data_path: Path = Path("../shared/data"), work: Path | None = None) -> list[Result]:
    """All rows; a folder for files is made and removed where none is given."""
    with contextlib.ExitStack() as stack:
        place = work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        data, _ = folder_of_data(data_path.resolve(), place)
        stack.callback(os.chdir, os.getcwd())
        os.chdir(place)  # RecBole logs into the working directory
        return lightgcn(data, place, repeats) + sgl(data, place, repeats) + bpr(data, place, repeats)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-path", type=Path, default=Path("../shared/data"), help="folder that holds yelp2018/")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are measured")
    parser.add_argument("--threads", type=int, default=1, help="threads of every contestant")
    args = parser.parse_args()
    sys.argv = sys.argv[:1]  # RecBole reads the command line too
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(args.threads)
    results = measure(args.rounds, args.data_path)
    sys.stdout.write(
        f"{args.threads} thread(s), {args.rounds} rounds by turns; torch {torch.__version__}, "
        f"Python {platform.python_version()}\n\n" + "\n".join(table(results)) + "\n"
    )


if __name__ == "__main__":
    main()
