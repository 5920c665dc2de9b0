"""Functions in processes of their own, which end with their parent: a fresh one for every training run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from typing import Any

_IMPORTED_BY_A_RUN = ("recbole.data.utils", "torch._dynamo", "torch.onnx", "torch.utils.tensorboard")
"""What the first optimizer, checkpoint and TensorBoard of a process import, half of the time of a short run."""
_PATIENCE = 10.0
"""Seconds that a process gets to end by itself."""


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
        """End the process; it may put away its temporary files, and is killed where that takes too long."""
        self.process.terminate()
        self.process.join(_PATIENCE)
        self.process.kill()
        self.process.join()


def in_child(work: Any, arguments: tuple[Any, ...]) -> Any:
    """A function's result out of a fresh process.

    Raises:
        ChildProcessError: If the process ended without a word.
    """
    child = Child(work, arguments)
    try:
        return child.result()
    finally:
        child.stop()


def _context() -> Any:
    """How processes start: forked off a server that has the libraries loaded, where the system can."""
    if "forkserver" not in multiprocessing.get_all_start_methods() or multiprocessing.parent_process() is not None:
        return multiprocessing.get_context("spawn")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["recbole_hnlm.quick_start", *_IMPORTED_BY_A_RUN])
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # or Ctrl-C ends its imports with a traceback
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def _serve(writer: Connection, work: Any, arguments: tuple[Any, ...]) -> None:
    """Run the function quietly; Ctrl-C is the parent's to act on."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # where processes are spawned
    signal.signal(signal.SIGTERM, _leave)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    warnings.filterwarnings("ignore")
    _be_silent()
    writer.send(work(*arguments))
    writer.close()


def _leave(number: int, frame: Any) -> None:
    raise SystemExit(128 + number)  # unlike the signal's own way, it leaves no checkpoint behind


def _end_with(sentinel: Any) -> None:
    wait([sentinel])
    os._exit(1)


def _be_silent() -> None:
    """Standard output and error into nothing, libraries in C among them: they belong to the parent's progress view."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nothing, descriptor)
