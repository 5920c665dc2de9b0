"""The search of a cell: optuna's TPE on validation scores, replayed point by point from what is known already.

Nothing here sees a test metric: the generator hands out settings and gets back one validation score each.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from recbole_hnlm.compare.ledger import RunSetting, digest
from recbole_hnlm.compare.plan import Cell
from recbole_hnlm.compare.spaces import Knob, Point, in_digits

Score = float | None
"""Validation score, higher is better; None where the run failed."""
Search = Generator[list[RunSetting], list[Score], "Tuned"]

_ASKED_ANEW = 20
STARTUP_TRIALS = 5
"""Random trials before the first informed one. Constant: a larger budget goes on where a smaller one ended."""


@dataclass(frozen=True)
class Tuned:
    """What a search has found.

    Attributes:
        points: The points tried, in order.
        scores: Their validation scores.
    """

    points: tuple[Point, ...]
    scores: tuple[Score, ...]

    @property
    def best(self) -> Point | None:
        """The first of the points with the highest score; None where all have failed."""
        known = [(score, -index) for index, score in enumerate(self.scores) if score is not None]
        return self.points[-max(known)[1]] if known else None


def search(cell: Cell, points: Sequence[Point] | None = None) -> Search:
    """Hand out the trials of a cell on its first seed, the defaults first, and learn from their scores.

    Args:
        cell: What is tuned.
        points: The points of a search that was finished before; nothing is asked anew then, whatever optuna does today.

    Returns:
        A generator of settings that takes scores and returns what was found.
    """
    seed = cell.seeds[0]
    if points is not None:
        scores = yield [cell.setting(point, seed) for point in points]
        return Tuned(tuple(points), tuple(scores))
    tried: list[Point] = [dict(cell.start)]
    found = list((yield [cell.setting(tried[0], seed)]))
    study = _study(cell)
    distributions = {key: _distribution(knob) for key, knob in cell.space.items()}
    _tell_start(study, cell, distributions, found[0])
    while len(tried) < cell.budget:
        trial, point = _ask(study, cell, distributions, tried)
        tried.append(point)
        (score,) = yield [cell.setting(point, seed)]
        found.append(score)
        if score is None:
            study.tell(trial, state=optuna.trial.TrialState.FAIL)
        else:
            study.tell(trial, score)
    return Tuned(tuple(tried), tuple(found))


def _ask(
    study: optuna.Study, cell: Cell, distributions: dict[str, Any], tried: Sequence[Point]
) -> tuple[optuna.Trial, Point]:
    """The next trial; of a few choices one that was not tried, if asking a few times finds one."""
    again = 0
    while True:
        trial = study.ask(distributions)
        point = {key: _value(knob, trial.params[key]) for key, knob in cell.space.items()}
        if point not in tried or again == _ASKED_ANEW:
            return trial, point
        study.tell(trial, state=optuna.trial.TrialState.FAIL)
        again += 1


def _study(cell: Cell) -> optuna.Study:
    """A study whose draws belong to the row and the dataset, not to the order in which rows are run."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {key: knob.described() for key, knob in cell.space.items()}
    seed = int(digest([cell.dataset, cell.row.model, cell.values, space]), 16) % 2**32
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS)
    return optuna.create_study(direction="maximize", sampler=sampler)


def _tell_start(study: optuna.Study, cell: Cell, distributions: dict[str, Any], score: Score) -> None:
    """Let the study know the defaults, as far as they lie in the space."""
    params = {key: _told(knob, cell.start[key]) for key, knob in cell.space.items() if knob.holds(cell.start.get(key))}
    if score is None or not params:
        return
    known = {key: distributions[key] for key in params}
    study.add_trial(optuna.trial.create_trial(params=params, distributions=known, value=score))


def _distribution(knob: Knob) -> Any:
    if not knob.choices:
        return optuna.distributions.FloatDistribution(knob.low, knob.high, log=knob.log)
    places = range(len(knob.choices))
    if all(isinstance(choice, (int, float)) and not isinstance(choice, bool) for choice in knob.choices):
        return optuna.distributions.IntDistribution(0, len(places) - 1)  # numbers have an order to learn from
    return optuna.distributions.CategoricalDistribution(tuple(places))


def _value(knob: Knob, told: Any) -> Any:
    return knob.choices[told] if knob.choices else in_digits(told)


def _told(knob: Knob, value: Any) -> Any:
    return knob.choices.index(value) if knob.choices else value
