"""Functions in processes of their own, which end with their parent: a fresh one for every training run."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from typing import Any


class Child:
    """A function running in a fresh process that ends with its parent.

    Args:
        work: Function of a module; gets ``arguments``.
        arguments: What it gets; and what it returns comes back by :meth:`result`.
    """

    def __init__(self, work: Any, arguments: tuple[Any, ...]) -> None:
        context = _context()
        self.reader, writer = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(writer, work, arguments))
        self.process.start()
        writer.close()

    def result(self) -> Any:
        """What the function returned; waits for it.

        Raises:
            ChildProcessError: If the process ended without a word, with how it ended.
        """
        try:
            value = self.reader.recv()
        except EOFError:
            self.process.join()
            code = self.process.exitcode or 0
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"status {code}"
            hint = "; out of memory?" if code == -signal.SIGKILL else ""
            raise ChildProcessError(f"the process ended with {how}{hint}") from None
        self.process.join()
        return value

    def stop(self) -> None:
        """End the process now."""
        self.process.terminate()
        self.process.join()


def in_child(work: Any, arguments: tuple[Any, ...]) -> Any:
    """A function's result out of a fresh process.

    Raises:
        ChildProcessError: If the process ended without a word.
    """
    return Child(work, arguments).result()


def _context() -> Any:
    """How processes start: forked off a server that has the libraries loaded, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods() or multiprocessing.parent_process() is not None:
        return multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recbole_hnlm.quick_start"])
    return context


def _serve(writer: Connection, work: Any, arguments: tuple[Any, ...]) -> None:
    """Run the function quietly; Ctrl-C is the parent's to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    warnings.filterwarnings("ignore")
    with _silenced():
        value = work(*arguments)
    writer.send(value)
    writer.close()


def _end_with(sentinel: Any) -> None:
    wait([sentinel])
    os._exit(1)


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Standard output and error into nothing: they belong to the parent's progress view."""
    with contextlib.ExitStack() as stack:
        nothing = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(nothing))
        stack.enter_context(contextlib.redirect_stderr(nothing))
        yield
