"""Writing files so that a crash leaves either the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import glob
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)
_BLOCK = 1 << 20
_CHUNK_ROWS = 8192
TEMPORARY_SUFFIX = ".hnlm-tmp"


@dataclass(frozen=True)
class FileEntry:
    """What the manifest records of a file: its length in bytes and its sha256 in hex."""

    bytes: int
    sha256: str


class AtomicFile:
    """A file under a temporary name that takes its own name when the block ends without error.

    The data is synced before the rename and the directory after it. ``entry`` then holds the
    length and the checksum, taken from what was written: a thread adds large pieces up while the system writes them.
    """

    def __init__(self, path: Path) -> None:
        """Prepare to write ``path``; its directory must exist."""
        self.path = path
        self.entry = FileEntry(0, "")
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
        self._digest = hashlib.sha256()
        self._bytes = 0
        self._helper = ThreadPoolExecutor(1)
        self._handle: IO[bytes] | None = None

    def __enter__(self) -> AtomicFile:
        """Open the temporary file."""
        self._handle = self._temporary.open("wb")
        return self

    def write(self, data: bytes | memoryview) -> int:
        """Append ``data``; returns the bytes written, as files do."""
        assert self._handle is not None
        hashing = self._helper.submit(self._digest.update, data)
        self._handle.write(data)
        hashing.result()
        size = data.nbytes if isinstance(data, memoryview) else len(data)
        self._bytes += size
        return size

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Sync and rename, or remove the temporary file if the block failed."""
        assert self._handle is not None
        self._helper.shutdown()
        if kind is not None:
            self._give_up(error)
            return
        try:
            self._handle.flush()
            os.fsync(self._handle.fileno())
            self._handle.close()
        except OSError as failure:
            self._give_up(failure)
            raise
        os.replace(self._temporary, self.path)
        sync_directory(self.path.parent)
        self.entry = FileEntry(self._bytes, self._digest.hexdigest())

    def _give_up(self, error: BaseException | None) -> None:
        """Leave nothing behind; what the system says of a full disk names the file then."""
        assert self._handle is not None
        with contextlib.suppress(OSError):
            self._handle.close()  # what is still to be written may fail once more
        self._temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            error.filename = str(self.path)


def sync_directory(directory: Path) -> None:
    """Make renames and removals in ``directory`` durable, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(path: Path, lines: Iterable[str]) -> FileEntry:
    """Write ``lines`` (one or several at a time, with their ends) as UTF-8, crash-safe."""
    with AtomicFile(path) as file:
        block: list[str] = []
        size = 0
        for line in lines:
            block.append(line)
            size += len(line)
            if size >= _BLOCK:
                file.write("".join(block).encode())
                block.clear()
                size = 0
        file.write("".join(block).encode())
    return file.entry


class Rows(Protocol):
    """What can be written slice by slice: an array, or rows in a file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As an array's."""

    def __len__(self) -> int:
        """Number of rows."""

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        """Rows of a slice."""


def write_npy(path: Path, array: Rows, dtype: Any) -> FileEntry:
    """Write ``array`` as ``.npy`` of ``dtype``, converted chunk by chunk, crash-safe."""
    dtype = np.dtype(dtype)
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": array.shape,
    }
    with AtomicFile(path) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, len(array), _CHUNK_ROWS):
            chunk = np.ascontiguousarray(array[start : start + _CHUNK_ROWS], dtype=dtype)
            if chunk.size:
                file.write(chunk.data.cast("B") if chunk.dtype.names is None else chunk.tobytes())
    return file.entry


def hash_file(path: Path) -> str:
    """sha256 of a file in hex, read in blocks."""
    digest = hashlib.sha256()
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def file_entry(path: Path) -> FileEntry:
    """Length and checksum of a file that is already there."""
    return FileEntry(path.stat().st_size, hash_file(path))


@contextlib.contextmanager
def directory_lock(directory: Path) -> Iterator[None]:
    """Hold ``directory`` against other builds; a killed holder lets go by itself.

    Leaves nothing behind, since the lock is on the directory. File systems without such locks are
    used unlocked.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        yield
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("waiting for another build in %s", directory)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            logger.debug("no lock on %s: %s", directory, error)
        yield
    finally:
        os.close(descriptor)


def check_writable(directory: Path, key: str = "hnlm_artefact_dir") -> None:
    """Make ``directory`` if it is absent, and refuse one that takes no file, before anything is made for it.

    Args:
        directory: The folder.
        key: The option that names another one.

    Raises:
        OSError: With the remedy.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(f"{directory} takes no files ({error}); name another folder by {key}") from error


def remove_temporaries(directory: Path, name: str) -> None:
    """Remove what killed writers of dataset ``name`` left; call it under the directory's lock."""
    for path in directory.glob(f".{glob.escape(name)}.*{TEMPORARY_SUFFIX}"):
        path.unlink(missing_ok=True)
