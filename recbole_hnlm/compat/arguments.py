"""``sys.argv`` while a command of ours runs: RecBole takes its settings from there, whoever else is meant."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence


@contextlib.contextmanager
def settings_alone(arguments: Sequence[str]) -> Iterator[None]:
    """While it is entered, ``sys.argv`` holds the ``--key=value`` of a command's arguments and nothing else."""
    before = sys.argv[1:]
    sys.argv[1:] = [argument for argument in arguments if argument.startswith("--") and "=" in argument]
    try:
        yield
    finally:
        sys.argv[1:] = before
