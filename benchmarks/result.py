"""One comparison of a benchmark, for tables and for whoever checks them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Result:
    """How fast one piece of work is against its peer.

    Attributes:
        work: What was done.
        peer: What it was compared with.
        ratio: Median over rounds of peer's time by ours; above 1 we are faster.
        low: Least ratio of a round.
        high: Greatest ratio of a round.
        wanted: Least ratio that is wanted, or None.
        note: Whatever else a reader must know.
    """

    work: str
    peer: str
    ratio: float
    low: float
    high: float
    wanted: float | None
    note: str = ""
