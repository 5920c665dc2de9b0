"""Runs of a comparison that train nothing: figures made of the setting, and cells to make them of."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from recbole_hnlm.compare.command import compare
from recbole_hnlm.compare.ledger import FAILED, OK, Ledger, Record, RunSetting, canonical
from recbole_hnlm.compare.plan import Cell, Request, cells_of
from recbole_hnlm.compare.pool import Pool, start_in_child
from recbole_hnlm.compare.request import Asked
from recbole_hnlm.compare.rows import Grid

Test = Callable[[RunSetting], Mapping[str, float]]


def share(*parts: Any) -> float:
    """A number in [0, 1) that looks random and is the same for the same parts."""
    return int(hashlib.sha256(canonical(parts).encode()).hexdigest()[:12], 16) / 16**12


def plain_test(setting: RunSetting) -> dict[str, float]:
    return {"recall@20": 0.2 + 0.1 * share(setting.key, "r"), "ndcg@20": 0.1 + 0.1 * share(setting.key, "n")}


class Fake:
    """Starts runs that have ended already, and counts them.

    Args:
        test: Test metrics of a setting.
        failing: Names of samplers whose runs fail.
        refused: Whether they fail before they train.
    """

    def __init__(self, test: Test = plain_test, failing: tuple[str, ...] = (), refused: bool = False) -> None:
        self.test, self.failing, self.trained, self.refused = test, failing, list[RunSetting](), refused

    def __call__(self, setting: RunSetting) -> Ended:
        self.trained.append(setting)
        if setting.values["neg_sampler"] in self.failing:
            told = {"status": FAILED, "error": "ValueError: no & never_mind", "refused": self.refused}
            return Ended({**setting.described(), **told})
        valid = share(setting.key, "v")
        return Ended(
            {
                **setting.described(), "status": OK, "valid_score": valid, "higher_is_better": True,
                "valid": {"ndcg@20": valid}, "test": dict(self.test(setting)), "epochs": 4, "best_epoch": 1,
                "seconds_per_epoch": 0.5, "seconds": 2.0, "seconds_to_best": 1.0, "peak_memory_mib": 300.0,
                "curve": [[1, 1.0, valid], [3, 2.0, valid / 2]], "versions": {"torch": "2"},
                "machine": {"processor": "fake", "cores": 1, "device": "cpu"},
            }
        )  # fmt: skip


class Ended:
    """A run that has ended before it began."""

    def __init__(self, record: Record) -> None:
        self.reader, writer = Pipe(duplex=False)
        writer.close()
        self.record = record

    def result(self) -> Record:
        return self.record

    def stop(self) -> None:
        raise AssertionError("it has ended")


def request(data: Path, seeds: int = 3, tune: int = 4, **grid: Any) -> Request:
    names = {"models": ("BPR",), "neg_samplers": ("uniform", "dns"), **grid}
    return Request(
        {"tiny": {}},
        Grid(**names),
        shared={"data_path": str(data), "use_gpu": False},
        seeds=tuple(range(2020, 2020 + seeds)),
        tune=tune,
    )


def cells(data: Path, **changed: Any) -> list[Cell]:
    return cells_of(request(data, **changed))


def compared(out: Path, asked: Request, start: Fake, **changed: Any) -> Any:
    options = {"processes": 1, "against": None, **changed}
    return compare(Asked(asked, out, **options), cells_of(asked), show=False, start=start)


def train_all(settings: list[RunSetting], folder: Path, processes: int = 1) -> list[Record]:
    """The records of settings, trained in processes of their own."""

    def once() -> Generator[list[RunSetting], list[Record], Any]:
        return (yield settings)

    with Ledger(folder) as ledger:
        (records,) = Pool(ledger, start_in_child(folder), processes).run([once()])
    trained: list[Record] = records
    return trained
