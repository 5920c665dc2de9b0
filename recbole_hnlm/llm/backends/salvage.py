"""Damage to the file of kept answers: found, cut off, and what is left of it saved."""

from __future__ import annotations

import os
import sqlite3
import time
import weakref
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

_WAL_HEADER = 32
_FRAME_HEADER = 24
_FARTHEST_SKIP = 1 << 40


class Presence:
    """A shared lock that says "in use" for as long as a process lives, however it ends.

    Attributes:
        alone: Whether nobody else had the file open when this process came.
    """

    def __init__(self, path: Path) -> None:
        """Announce this process's use of what the lock file ``path`` stands for."""
        self.alone = True
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        self.end = weakref.finalize(self, os.close, self._descriptor)
        """Withdraw, as does whoever forgets it."""
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.alone = False

    def share(self) -> None:
        """Let others come, who then are not alone; call it when the file is in order."""
        try:
            import fcntl
        except ImportError:
            return
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)


def cut_tail_size(path: Path) -> int:
    """Bytes at the end of the write-ahead log of ``path`` that make no whole frame; SQLite ignores them."""
    log = path.with_name(f"{path.name}-wal")
    if not log.exists():
        return 0
    size = log.stat().st_size
    if size < _WAL_HEADER:
        return size
    with log.open("rb") as handle:
        page = int.from_bytes(handle.read(12)[8:], "big")
    return (size - _WAL_HEADER) % (_FRAME_HEADER + page)


def is_readable(path: Path) -> bool:
    """Whether the ends of the table and of its index can be read; a truncated file fails this."""
    try:
        connection = sqlite3.connect(path)
    except sqlite3.Error:
        return False
    try:
        if connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'replies'").fetchone()[0]:
            connection.execute("SELECT body FROM replies ORDER BY id DESC LIMIT 1").fetchone()
            connection.execute("SELECT digest FROM replies ORDER BY digest DESC LIMIT 1").fetchone()
    except sqlite3.DatabaseError:
        return False
    finally:
        connection.close()
    return True


def salvage(path: Path, connect: Callable[[Path], sqlite3.Connection]) -> tuple[Path, int]:
    """Put the damaged ``path`` aside and copy what can be read of it into a new file in its place.

    The copy is made under another name first, so that a kill in between loses nothing.

    Args:
        path: The damaged file.
        connect: Opens a file and makes its tables.

    Returns:
        Where the damaged file lies now, and the number of answers saved.
    """
    aside = path.with_name(f"{path.stem}.damaged-{time.time_ns()}.sqlite")
    fresh = path.with_name(f"{path.stem}.repaired.sqlite")
    _remove(fresh)
    target = connect(fresh)
    statement = "INSERT OR IGNORE INTO replies (digest, crc, body) VALUES (?, ?, ?)"
    target.execute("BEGIN")
    for row in _readable_rows(path):
        target.execute(statement, row)
    target.execute("COMMIT")
    count = int(target.execute("SELECT count(*) FROM replies").fetchone()[0])
    target.execute("PRAGMA journal_mode = DELETE")  # all of it in one file, which can be renamed
    target.close()
    os.replace(path, aside)
    finish_salvage(path)
    return aside, count


def finish_salvage(path: Path) -> None:
    """Put the copy in the place of ``path`` if that is gone: the last step, which a kill may have prevented."""
    fresh = path.with_name(f"{path.stem}.repaired.sqlite")
    if path.exists() or not fresh.exists():
        return
    _remove(path)  # the log of the damaged file, which must not be taken for the new one's
    os.replace(fresh, path)


def _readable_rows(path: Path) -> Iterator[tuple[bytes, int, bytes]]:
    """Rows of a damaged file in their order, over gaps that cannot be read, checksums verified."""
    try:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA writable_schema = ON")  # else a file that is too short is refused altogether
    except sqlite3.Error:
        return
    after, skip = 0, 1
    query = "SELECT id, digest, crc, body FROM replies NOT INDEXED WHERE id > ? ORDER BY id"
    while skip < _FARTHEST_SKIP:
        try:
            for number, digest, crc, body in connection.execute(query, (after,)):
                if number <= after:  # a damaged tree may lead in circles
                    raise sqlite3.DatabaseError("rows out of order")
                after, skip = number, 1
                if zlib.crc32(digest + body) == crc:
                    yield digest, crc, body
            break
        except (sqlite3.DatabaseError, TypeError):
            after, skip = after + skip, skip * 2
    connection.close()


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
