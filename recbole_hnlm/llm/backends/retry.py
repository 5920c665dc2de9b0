"""When a failed attempt is repeated, and after how long."""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Mapping

_LONGEST_BACKOFF = 60.0


class Backoff:
    """Exponential backoff with full jitter: attempt n waits uniformly within ``[0, first * 2^(n-1)]``, at most 60 s."""

    def __init__(self, first: float, random_unit: Callable[[], float] | None = None) -> None:
        """``first`` is the upper end of the first wait in seconds; ``random_unit`` draws from [0, 1)."""
        self._first = first
        # Of its own, so that nobody's global random state changes; unseeded, so that askers part ways.
        self._draw = random_unit or random.Random().random

    def wait(self, attempt: int) -> float:
        """Seconds to wait after the failed attempt number ``attempt``, counted from 1."""
        return self._draw() * min(self._first * 2.0 ** min(attempt - 1, 30), _LONGEST_BACKOFF)


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float:
    """Seconds that a server asks to wait, by ``retry-after-ms`` or ``Retry-After``; 0 where it says nothing readable.

    >>> retry_after({"retry-after": "7"}), retry_after({"retry-after-ms": "250"}), retry_after({})
    (7.0, 0.25, 0.0)
    """
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            return max(float(headers[name]) * unit, 0.0)
        except (KeyError, ValueError):
            continue
    try:
        moment = email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp()
    except (KeyError, ValueError, TypeError):
        return 0.0
    return max(moment - (time.time() if now is None else now), 0.0)
