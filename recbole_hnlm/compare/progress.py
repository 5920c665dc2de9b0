"""How far a comparison is: every row's state and the time left, on standard error while it runs."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from tqdm import tqdm

from recbole_hnlm.compare.ledger import FAILED, Record
from recbole_hnlm.compare.plan import Cell

_SHOWN = 20
"""Rows of the live table at most: those that run, and their neighbours."""


class Progress:
    """A bar with the rows that run and the time left; a live table of rows where the package rich is installed.

    Args:
        cells: The cells, in the order of the pool's jobs.
        known: Runs of each cell that are in the ledger already.
        visible: Whether anything is shown.
    """

    def __init__(self, cells: Sequence[Cell], known: Sequence[int], visible: bool = True) -> None:
        self.cells, self.ended, self.running = cells, list(known), [0] * len(cells)
        self.failed = [0] * len(cells)
        self._live = _live_view(self) if visible and sys.stderr.isatty() else None
        total = sum(cell.runs for cell in cells)
        hidden = not visible or self._live is not None
        self._bar = tqdm(total=total, initial=sum(known), desc="runs", unit="run", disable=hidden, file=sys.stderr)
        self._started, self._trained = time.monotonic(), 0

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._live is not None:
            self._live.stop()

    def advanced(self, job: int, running: int, record: Record | None) -> None:
        """A run of a cell has started, or has ended with a record."""
        self.running[job] += 1 if record is None else -1
        if record is not None:
            gone = record.get("refused") and not self.ended[job]  # the cell ends with its first trial
            self.ended[job] += self.cells[job].runs if gone else 1
            self._trained += 1
            self.failed[job] += record["status"] == FAILED
            self._bar.update(self.cells[job].runs if gone else 1)
        active = [cell.label for cell, count in zip(self.cells, self.running, strict=True) if count > 0]
        self._bar.set_postfix_str(", ".join(active[:2]))
        if self._live is not None:
            self._live.update(_view(self))

    def states(self) -> list[tuple[str, str]]:
        """Every row with its state, e.g. ``("ml-100k / BPR / dns", "running, 3 of 12")``."""
        return [(cell.label, self._state(place)) for place, cell in enumerate(self.cells)]

    def _state(self, place: int) -> str:
        done, runs = min(self.ended[place], self.cells[place].runs), self.cells[place].runs
        word = "running" if self.running[place] else ("done" if done >= runs else ("begun" if done else "waits"))
        failed = f", {self.failed[place]} failed" if self.failed[place] else ""
        return f"{word}, {done} of {runs}{failed}"

    def left(self) -> str:
        """Runs that are left, and the time they take at the pace so far."""
        runs = sum(max(0, cell.runs - ended) for cell, ended in zip(self.cells, self.ended, strict=True))
        if not self._trained:
            return f"{runs} runs left"
        seconds = int((time.monotonic() - self._started) / self._trained * runs)
        return f"{runs} runs left, about {seconds // 3600} h {seconds % 3600 // 60:02d} min"


def _live_view(progress: Progress) -> Any:
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return None
    return Live(console=Console(stderr=True), refresh_per_second=2)


def _view(progress: Progress) -> Any:
    from rich.table import Table

    table = Table("row", "state", title=progress.left())
    states = progress.states()
    first = next((place for place, count in enumerate(progress.running) if count), 0)
    start = max(0, min(first - 3, len(states) - _SHOWN))
    for label, state in states[start : start + _SHOWN]:
        table.add_row(label, state)
    return table
