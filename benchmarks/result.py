"""What a benchmark of this folder found: one line of a table."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """A comparison of two contestants that took turns.

    Attributes:
        work: What was done.
        peer: Who ours is compared with.
        ratio: How many times as fast ours is, median over rounds.
        low: Least ratio of a round.
        high: Greatest ratio of a round.
        wanted: Least ratio that is good enough, None where the line only informs.
        note: What else there is to say.
    """

    work: str
    peer: str
    ratio: float
    low: float
    high: float
    wanted: float | None = None
    note: str = ""


def compared(
    work: str, peer: str, theirs: Sequence[float], ours: Sequence[float], wanted: float | None = None, note: str = ""
) -> Result:
    """The result of rounds that took ``theirs`` and ``ours``, in seconds for the same work."""
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    return Result(work, peer, statistics.median(ratios), min(ratios), max(ratios), wanted, note)


def table(results: Iterable[Result]) -> list[str]:
    """Lines of a Markdown table."""
    lines = ["| work | peer | ours / peer (its range over rounds) | wanted | |", "|---|---|---:|---:|---|"]
    for found in results:
        wanted = "" if found.wanted is None else f"{found.wanted:g}"
        spread = f"{found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})"
        lines.append(f"| {found.work} | {found.peer} | {spread} | {wanted} | {found.note} |")
    return lines
