"""Figures of a stage as a short table."""

from __future__ import annotations

from collections.abc import Iterable


def figures(rows: Iterable[tuple[str, str]]) -> str:
    """Name and figure, a row a line, as they stand in the log.

    >>> figures([("pairs", "1,000")]).split()
    ['pairs', '1,000']
    """
    return "\n".join(f"  {name:<34}{figure:>20}" for name, figure in rows)
