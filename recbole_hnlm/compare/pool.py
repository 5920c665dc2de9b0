"""Jobs over several processes: which run comes next, what is known already, and a clean end at any moment."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Protocol

from recbole_hnlm.compare.children import Child
from recbole_hnlm.compare.ledger import FAILED, STOPPED, Ledger, Record, RunSetting
from recbole_hnlm.compare.outcomes import Job
from recbole_hnlm.compare.runner import train_once
from recbole_hnlm.compare.sharing import open_account
from recbole_hnlm.llm.backends.outcome import RunStopped

logger = logging.getLogger(__name__)
_LOOK_AGAIN = 1.0
"""Seconds between two looks at what another comparison in the folder trains."""


class Running(Protocol):
    """A run that has been started."""

    reader: Any

    def result(self) -> Record:
        """Its record."""

    def stop(self) -> None:
        """End it now."""


Start = Callable[[RunSetting], Running]


class Watcher(Protocol):
    """Whoever shows how far the jobs are."""

    def advanced(self, job: int, running: int, record: Record | None) -> None:
        """A run of a job has started (``record`` is None) or ended."""


def start_in_child(folder: Path) -> Start:
    """Starts runs of the comparison in ``folder`` in processes of their own, with one account for a chat model."""
    account = open_account()
    return lambda setting: Child(train_once, (setting, folder, account))


@contextlib.contextmanager
def stoppable(then: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the runs inside with a word and status 130, after ``then``, which a stopped run waits for
    as well.
    """
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    except KeyboardInterrupt:
        then()
        logger.warning("stopped; every run that has ended is kept, and the same command goes on from there")
        raise SystemExit(130) from None
    except RunStopped:
        then()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


class Pool:
    """Runs jobs side by side, earlier jobs first; a run that two of them want, or two commands, is trained once.

    Args:
        ledger: Open for writing; what it knows is not trained.
        start: How a run is started.
        processes: Runs at a time.
        retry_failed: Whether runs that failed before are tried again, once.
        watcher: Told of every run that starts or ends.
    """

    def __init__(
        self,
        ledger: Ledger,
        start: Start,
        processes: int = 1,
        retry_failed: bool = False,
        watcher: Watcher | None = None,
    ) -> None:
        if processes < 1:
            raise ValueError(f"processes={processes} must be at least 1")
        self.ledger, self.start, self.processes, self.watcher = ledger, start, processes, watcher
        self._retry, self._tried = retry_failed, set[str]()
        self._ready: list[tuple[int, int, int, RunSetting]] = []
        self._order = itertools.count()  # a job may ask for a second setting in the same place
        self._running: dict[str, tuple[int, Running, RunSetting]] = {}
        self._wanted: dict[str, list[int]] = {}
        self._stopped, self._waits = "", False

    def run(self, jobs: Sequence[Job]) -> list[Any]:
        """Carry every job to its end, and hand back what the jobs return.

        An exception, Ctrl-C among them, ends the runs in progress; what has ended is in the ledger.

        Raises:
            RunStopped: If a run waits for money or a server; those in progress are carried to their end before.
        """
        self._jobs, self._results = list(jobs), [None] * len(jobs)
        self._asked: list[list[RunSetting]] = [[] for _ in jobs]
        try:
            for index in range(len(jobs)):
                self._go_on(index, None)
            while (self._ready and not self._stopped) or self._running:
                self._fill()
                self._collect()
        finally:
            for key, (_, running, _) in self._running.items():
                running.stop()
                self.ledger.release(key)
            self._running.clear()
        if self._stopped:
            raise RunStopped(f"{self._stopped} (every run that has ended is kept)")
        return self._results

    def _go_on(self, index: int, answer: list[Record] | None) -> None:
        """Hand a job its records and queue what it asks next, for as long as the ledger knows the answers."""
        while True:
            try:
                settings = self._jobs[index].send(answer)  # type: ignore[arg-type]
            except StopIteration as stopped:
                self._results[index], self._asked[index] = stopped.value, []
                return
            self._asked[index] = settings
            unknown = {setting.key: setting for setting in settings if self._known(setting.key) is None}
            for place, (key, setting) in enumerate(unknown.items()):
                if key not in self._wanted:
                    heapq.heappush(self._ready, (index, place, next(self._order), setting))
                self._wanted.setdefault(key, []).append(index)
            if unknown:
                return
            answer = self._answer(index)

    def _known(self, key: str) -> Record | None:
        record = self.ledger.find(key)
        if record is not None and record["status"] == FAILED and self._retry and key not in self._tried:
            return None
        return record

    def _answer(self, index: int) -> list[Record]:
        records = [self.ledger.find(setting.key) for setting in self._asked[index]]
        return [record for record in records if record is not None]

    def _fill(self) -> None:
        elsewhere = []
        while self._ready and not self._stopped and len(self._running) < self.processes:
            index, place, order, setting = heapq.heappop(self._ready)
            claimed = self.ledger.claim(setting.key)
            if self._known(setting.key) is not None:  # another comparison in the folder has trained it meanwhile
                self.ledger.release(setting.key)
                self._ended(setting.key)
            elif not claimed:
                elsewhere.append((index, place, order, setting))
            else:
                self._running[setting.key] = index, self.start(setting), setting
                self._tell(index, None)
        for waiting in elsewhere:
            heapq.heappush(self._ready, waiting)
        if elsewhere and not self._waits:
            logger.info("another comparison in the folder trains a run of this one, which waits for it")
        self._waits = bool(elsewhere)

    def _collect(self) -> None:
        """Wait for one run at least, keep what has ended, and let the jobs that wanted it go on."""
        readers = {running.reader: key for key, (_, running, _) in self._running.items()}
        if not readers and self._waits:
            time.sleep(_LOOK_AGAIN)
        for reader in wait(list(readers), _LOOK_AGAIN if self._waits else None) if readers else ():
            key = readers[reader]
            index, running, setting = self._running[key]
            try:
                record = running.result()
            except ChildProcessError as error:
                record = {**setting.described(), "status": FAILED, "error": str(error)}
            del self._running[key]
            if record["status"] == STOPPED:
                self._stopped = record["error"]
                self.ledger.release(key)
                continue
            self._tried.add(key)
            record = self.ledger.add(record)
            self.ledger.release(key)
            self._tell(index, record)
            self._ended(key)

    def _ended(self, key: str) -> None:
        """Let the jobs go on that wait for nothing else; some have gone on before, on what another process ran."""
        for waiting in self._wanted.pop(key):
            wants = any(other.key == key for other in self._asked[waiting])
            if wants and all(self._known(other.key) is not None for other in self._asked[waiting]):
                self._go_on(waiting, self._answer(waiting))

    def _tell(self, index: int, record: Record | None) -> None:
        if self.watcher is not None:
            self.watcher.advanced(index, len(self._running), record)
