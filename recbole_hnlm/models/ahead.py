"""Work for the steps to come, done by a second thread while the current step runs.

numpy and torch let go of the interpreter while they copy, so that reading vectors from disk or memory costs the step
little where a core is free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Generic, TypeVar

import torch
from torch import Tensor

DEPTH = 4
"""Batches read ahead: enough to cover a slow one, and few megabytes."""

Result = TypeVar("Result")
Item = TypeVar("Item")


class ReadAhead(Generic[Result]):
    """Answers for batches that were told of beforehand, the same as ``read`` gives at once.

    Batches are worked on in the order in which they were told; at most ``depth`` are kept. A batch that was not told
    of, or is asked for in another order, is read on the spot, so that a wrong forecast costs time and nothing else.

    Args:
        read: What makes the answer to a batch, a tensor. It is called in another thread, one batch at a time, and on
            the spot, perhaps at the same moment, and so must not change what it shares.
        depth: Most batches ahead, at least 1.
    """

    def __init__(self, read: Callable[[Tensor], Result], depth: int = DEPTH) -> None:
        if depth < 1:
            raise ValueError(f"depth={depth}: expected at least 1; without reading ahead call read itself")
        self._read = read
        self._depth = depth
        self._thread: ThreadPoolExecutor | None = None
        self._told: deque[tuple[Tensor, Future[Result]]] = deque()
        self._misses = 0

    def __len__(self) -> int:
        """Batches told of and not asked for yet."""
        return len(self._told)

    def tell(self, batch: Tensor) -> bool:
        """Begin with the answer for a later :meth:`take`; False, and nothing is done, where ``depth`` batches wait.

        Args:
            batch: On the CPU, not to be changed until it is asked for.
        """
        if len(self._told) >= self._depth:
            return False
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="hnlm-ahead")
        self._told.append((batch, self._thread.submit(self._read, batch)))
        return True

    def take(self, batch: Tensor) -> Result:
        """The answer for a batch; raises what ``read`` raised.

        Batches told of before this one count as skipped and are dropped; so do all, once more batches in a row than
        ``depth`` were none of them (an epoch that was broken off, say).
        """
        if self._told:
            on_cpu = batch.cpu()
            for place, (told, answer) in enumerate(self._told):
                if torch.equal(told, on_cpu):
                    self._drop(place)
                    self._told.popleft()
                    self._misses = 0
                    return answer.result()
            self._misses += 1
            if self._misses > self._depth:
                self._drop(len(self._told))
                self._misses = 0
        return self._read(batch)

    def close(self) -> None:
        """Drop what waits and end the thread; it starts anew when it is needed."""
        self._drop(len(self._told))
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None

    def _drop(self, count: int) -> None:
        for _ in range(count):
            self._told.popleft()[1].cancel()


def look_ahead(items: Iterable[Item], tell: Callable[[Item], bool]) -> Iterator[Item]:
    """``items`` as they are, each told of as early as ``tell`` takes it.

    ``items`` is advanced beyond what was handed out, in the caller's thread: let nothing in it draw random numbers.

    Args:
        items: What is handed out.
        tell: Is told of each item in its order; where it answers False, it is asked again one item later.
    """
    source = iter(items)
    told: deque[Item] = deque()
    untold: deque[Item] = deque()  # one at most
    while True:
        untold.extend(islice(source, 1 - len(untold)))
        while untold and tell(untold[0]):
            told.append(untold.popleft())
            untold.extend(islice(source, 1))
        if not told and not untold:
            return
        yield (told or untold).popleft()
