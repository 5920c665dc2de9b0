"""A cell from its first trial to its last seed: a job for the pool, and the same job replayed from the ledger."""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass

from recbole_hnlm.compare.ledger import FAILED, OK, Ledger, Record, RunSetting
from recbole_hnlm.compare.plan import Cell
from recbole_hnlm.compare.spaces import Point
from recbole_hnlm.compare.tuning import Score, Tuned, search

Job = Generator[list[RunSetting], list[Record], "Outcome"]


@dataclass(frozen=True)
class Outcome:
    """What became of a cell.

    Attributes:
        cell: The cell.
        point: The point that validation chose; None where every trial failed, or none was run yet.
        records: The final runs by seed, failures among them.
        tried: Trials that were run.
        trials_failed: Those of them that failed.
        missing: Runs that are not done.
    """

    cell: Cell
    point: Point | None
    records: tuple[Record, ...] = ()
    tried: int = 0
    trials_failed: int = 0
    missing: int = 0

    @property
    def done(self) -> tuple[Record, ...]:
        """The final runs that succeeded."""
        return tuple(record for record in self.records if record["status"] == OK)

    @property
    def failures(self) -> tuple[str, ...]:
        """Messages of what failed at the chosen point, each once."""
        return tuple(dict.fromkeys(record["error"] for record in self.records if record["status"] == FAILED))

    @property
    def complete(self) -> bool:
        """Whether every seed has succeeded."""
        return not self.missing and len(self.done) == len(self.cell.seeds)


def validation_score(record: Record) -> Score:
    """The one number of a record that may decide anything; higher is better."""
    if record["status"] != OK or not math.isfinite(record["valid_score"]):
        return None
    score = float(record["valid_score"])
    return score if record["higher_is_better"] else -score


def job(cell: Cell, ledger: Ledger, keep: bool = True) -> Job:
    """Tune on the first seed, then train every seed at the best point; a row whose first trial is refused ends there.

    The points of a finished search are kept in the ledger, so that tables can be made of it without asking optuna,
    whose next version may ask for others.

    Args:
        cell: The cell.
        ledger: Where the points are kept and looked for.
        keep: Whether they are written there; needs an open ledger.
    """
    kept = ledger.find(cell.key)
    steps = search(cell, None if kept is None else kept["points"])
    settings = next(steps)
    records = yield settings
    if kept is None and records[0].get("refused"):
        return Outcome(cell, None, tuple(records), len(records), len(records))
    while True:
        try:
            settings = steps.send([validation_score(record) for record in records])
        except StopIteration as stopped:
            tuned: Tuned = stopped.value
            break
        records = yield settings
    if kept is None and keep:
        ledger.add({"key": cell.key, "status": OK, "cell": cell.label, "points": list(tuned.points)})
    tried, failed = len(tuned.points), tuned.scores.count(None)
    if tuned.best is None:
        return Outcome(cell, None, tuple(run for run in records if run["status"] == FAILED), tried, failed)
    finals = yield [cell.setting(tuned.best, seed) for seed in cell.seeds]
    return Outcome(cell, tuned.best, tuple(finals), tried, failed)


def replay(cell: Cell, ledger: Ledger) -> Outcome:
    """The outcome of a cell as far as the ledger knows it; trains nothing, writes nothing."""
    steps = job(cell, ledger, keep=False)
    tried = 0
    settings = next(steps)
    while True:
        records = [record for record in map(ledger.find, [setting.key for setting in settings]) if record is not None]
        if len(records) < len(settings):
            steps.close()
            final = tried >= cell.budget
            return Outcome(
                cell, None, tried=tried, missing=len(settings) - len(records) if final else cell.runs - tried
            )
        tried += len(records)
        try:
            settings = steps.send(records)
        except StopIteration as stopped:
            outcome: Outcome = stopped.value
            return outcome
