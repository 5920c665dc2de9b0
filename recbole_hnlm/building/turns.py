"""Builds of a dataset take turns, so that none asks, tunes or trains what another is about to keep."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from recbole_hnlm.artefacts.storage import directory_lock
from recbole_hnlm.llm.sharding import by_the_first, is_first
from recbole_hnlm.run_options import RunOptions, cache_directory
from recbole_hnlm.training.processes import on_first_rank

Absent = Callable[[], Callable[[], None] | None]
"""Looks for something, and returns what makes it, or None where it is there."""


@contextlib.contextmanager
def one_at_a_time(config: Any, run: RunOptions) -> Iterator[None]:
    """Within it no other build of the dataset with this cache is under way; only the first of a group waits for that.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
    """
    if not is_first():
        yield
        return
    folder = cache_directory(run) / "building" / str(config["dataset"])
    folder.mkdir(parents=True, exist_ok=True)
    with directory_lock(folder):
        yield


def in_turn(config: Any, run: RunOptions, absent: Absent) -> None:
    """Make what is absent, and still is once the turn has come; what is there needs no turn.

    Args:
        config: RecBole's configuration of the run.
        run: The run's options.
        absent: Looks, and makes nothing.
    """
    if absent() is not None:
        with one_at_a_time(config, run):
            make = absent()
            if make is not None:
                make()


def make_in_turn(config: Any, run: RunOptions, absent: Absent) -> None:
    """As :func:`in_turn`, in the first process alone; all go on or fail together."""
    on_first_rank(config, lambda: by_the_first(lambda: in_turn(config, run, absent), cache_directory(run)))
