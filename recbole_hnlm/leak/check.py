"""The leak check: a method is run as it is and with held-out data exchanged, and what must not change is compared."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recbole_hnlm.config import HNLMConfig, MainConfig
from recbole_hnlm.leak.comparing import Run, compare_masks, compare_training, differing_files, same
from recbole_hnlm.leak.frozen import Judge
from recbole_hnlm.leak.method import Trained, TrainFunction, train_as_configured
from recbole_hnlm.leak.poison import poisoned
from recbole_hnlm.leak.report import Finding, LeakReport
from recbole_hnlm.leak.trace import file_digests, state_digests
from recbole_hnlm.leak.worlds import given_paths, pairs_of, world_config, write_world
from recbole_hnlm.quick_start import split

logger = logging.getLogger(__name__)

_FROZEN = (
    "metrics with the method's own loaders",
    "metrics after further sampling",
    "metrics without sampler and text",
)
"""Ways to ask one frozen model for the same metrics."""
_TRUE, _POISONED, _AGAIN = "true-1", "poison", "true-2"
"""Folders of the worlds; of one length, so that a method that meets their paths does not differ by it."""


@dataclass(frozen=True)
class LeakCheck:
    """How the check runs."""

    epochs: int = 2
    """Epochs of each training, at least 1. Their number is fixed, as early stopping may read validation."""
    seed: int = 0
    """Seed of the exchange of held-out pairs."""
    folder: Path | None = None
    """Where the two data sets and what the method makes are kept; ``None`` = a temporary folder."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs={self.epochs} must be at least 1, or nothing is trained that could leak")


def check_leak(
    model: str | type | None = None,
    dataset: str | None = None,
    config_file_list: list[str] | None = None,
    config_dict: Mapping[str, Any] | None = None,
    train: TrainFunction = train_as_configured,
    settings: LeakCheck = LeakCheck(),
) -> LeakReport:
    """Run a method twice, the second time with held-out pairs exchanged for others, and compare what must not change.

    Training pairs and id maps are the same in both runs, so weights, drawn negatives, losses and files must be the
    same to the last bit. With the model frozen, metrics on the true held-out data must not change whether or not any
    step of the method runs, and only training pairs (and validation pairs, in the test) may be masked. What was made
    before, such as a file that an option names, is not judged; the report lists it.

    Args:
        model: Name or class of the model.
        dataset: Name of the dataset.
        config_file_list: YAML files.
        config_dict: Parameters that override the files.
        train: Trains the method; what ``run_recbole_hnlm`` would train by default.
        settings: How the check runs.

    Raises:
        ValueError: On settings that cannot work, or a dataset without held-out pairs.
        FileNotFoundError: If the dataset's files are missing.
    """
    first = MainConfig(model, dataset, config_file_list, config_dict)
    with contextlib.ExitStack() as stack:
        folder = settings.folder
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="leak-check-")))
        return _Check(first, model or first.model_class, train, folder.resolve(), settings).report()


class _Check:
    """One check of one method; ``folder`` must be empty."""

    def __init__(self, first: HNLMConfig, model: Any, train: TrainFunction, folder: Path, settings: LeakCheck) -> None:
        self.first, self.model, self.train, self.folder, self.settings = first, model, train, folder, settings
        first["data_path"] = str(Path(first["data_path"]).resolve())
        self.notes = [f"given from outside and not judged: {key}={value}" for key, value in given_paths(first).items()]

    def report(self) -> LeakReport:
        """Run the method in both worlds, and where they differ once more in the true one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if any(self.folder.iterdir()):
            raise ValueError(f"{self.folder} should be an empty folder, it holds files; name another one")
        self._write()
        judge_config = self._config(_TRUE)
        with _working_in(self.folder):
            judge = Judge(judge_config, split(judge_config))
        true, other = self._run(_TRUE), self._run(_POISONED)
        _refuse_other_ids(true, other, judge)
        rest = [*self._outcome(true, other, judge), *self._frozen(true.trained, judge)]
        report = LeakReport(self._name(), [*compare_training(true, other), *rest], self.notes)
        if not report.leaks:
            return report
        again = self._run(_AGAIN)
        restless = differing_files(true, again)
        notes = [f"differs between two runs on the same data too, and not judged: {name}" for name in restless]
        report = LeakReport(self._name(), [*compare_training(true, other, restless), *rest], [*self.notes, *notes])
        repeated = [*compare_training(true, again, restless), *self._outcome(true, again, judge)]
        return report.with_repeat([*repeated, *self._evaluated_again(true.trained, judge, report)])

    def _name(self) -> str:
        name = f"{self.first['model']} on {self.first['dataset']}"
        return f"{name}, {self.first.run.sampler}" if self.first.run is not None else name

    def _write(self) -> None:
        with _working_in(self.folder):
            loaders = split(self.first)
        splits = [loader._dataset if loader is not None else None for loader in loaders]
        if splits[1] is None or splits[2] is None or not len(splits[1]) or not len(splits[2]):
            raise ValueError("the check needs validation and test pairs; give the split a share for both")
        pairs = [pairs_of(dataset) for dataset in splits]
        held_out, kept = poisoned(pairs[0], pairs[1:], np.random.default_rng(self.settings.seed))
        rows = sum(len(part.users) for part in held_out)
        if kept == rows:
            raise ValueError("no held-out pair can be exchanged: their users have every item; take a sparser dataset")
        self.notes.append(f"{rows - kept} of {rows} held-out pairs were exchanged, {self.settings.epochs} epochs")
        name = str(self.first["dataset"])
        for world in (_TRUE, _AGAIN):
            write_world(self.folder / world, name, splits, pairs, None)
        write_world(self.folder / _POISONED, name, splits, [pairs[0], *held_out], self.settings.seed)

    def _config(self, world: str) -> HNLMConfig:
        return world_config(self.first, self.model, self.folder / world, self.settings.epochs)

    def _run(self, world: str) -> Run:
        logger.info("leak check: training on the %s data", world)
        home, config = self.folder / world, self._config(world)
        inputs = {path for path in home.rglob("*") if path.is_file()}
        with _working_in(home):
            trained = self.train(config)
        weights = state_digests(trained.model) if isinstance(trained.model, torch.nn.Module) else None
        return Run(config, trained, file_digests(home, inputs), weights)

    def _outcome(self, true: Run, other: Run, judge: Judge) -> list[Finding]:
        """What two frozen models say on the true held-out data."""
        models = true.trained.model, other.trained.model
        with _working_in(self.folder):
            return [
                same("scores of the frozen model", *map(judge.scores, models)),
                same("metrics on the true held-out data", *map(judge.metrics, models)),
            ]

    def _frozen(self, true: Trained, judge: Judge) -> list[Finding]:
        """What one frozen model says, and what is masked, whatever else the method does."""
        with _working_in(self.folder):
            expected = judge.metrics(true.model)
            return [
                *compare_masks(
                    (true.valid_data, true.test_data), [pairs_of(loader._dataset) for loader in judge.loaders]
                ),
                *(
                    same(compared, None if found is None else expected, found)
                    for compared, found in (
                        (_FROZEN[0], _own_metrics(judge, true)),
                        (_FROZEN[1], judge.metrics_after_steps(true.model, true.train_data)),
                        (_FROZEN[2], judge.metrics_without_head(true.model)),
                    )
                ),
            ]

    def _evaluated_again(self, true: Trained, judge: Judge, report: LeakReport) -> list[Finding]:
        """For what one frozen model was asked in several ways, whether asking twice in one way agrees."""
        with _working_in(self.folder):
            again = same("", judge.metrics(true.model), judge.metrics(true.model))
        return [replace(again, compared=one.compared) for one in report.findings if one.compared in _FROZEN]


def _own_metrics(judge: Judge, trained: Trained) -> dict[str, float] | None:
    if trained.valid_data is None or trained.test_data is None:
        return None
    return judge.metrics(trained.model, (trained.valid_data, trained.test_data))


def _refuse_other_ids(true: Run, other: Run, judge: Judge) -> None:
    """The check's own premise: the two worlds differ in held-out pairs alone."""
    with _working_in(Path(true.config["data_path"])):
        loaders = split(other.config)[0]
    ours, theirs = judge.loaders[0]._dataset, loaders._dataset
    for name in (ours.uid_field, ours.iid_field):
        assert ours.field2id_token[name].tolist() == theirs.field2id_token[name].tolist(), name
        assert torch.equal(ours.inter_feat[name], theirs.inter_feat[name]), name


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    """Relative paths, such as caches and logs, lie in ``folder`` for a while."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
