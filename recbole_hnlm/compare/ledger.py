"""Finished runs on disk, one JSON line each: what is there is never trained again.

Every writer has a file of its own (``runs-1.jsonl``, ``runs-2.jsonl`` ...), held by a lock while it runs, and every
reader reads all of them. A line is synced before the next run starts; a line that a kill has torn is left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from filelock import FileLock, Timeout

logger = logging.getLogger(__name__)

Record = dict[str, Any]
OK, FAILED, STOPPED = "ok", "failed", "stopped"
"""How a run ended; one that was stopped never comes into the ledger."""


def canonical(value: Any) -> str:
    """One text for equal settings: sorted keys, no spaces, numpy's numbers as Python's."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=_plain)


def digest(value: Any) -> str:
    """Short hash of :func:`canonical`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:20]


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{value!r} of type {type(value).__name__} cannot be kept as JSON; use numbers, texts and lists")


@dataclass(frozen=True)
class RunSetting:
    """One training run, complete: the same setting gives the same figures on the same machine.

    Attributes:
        dataset: Name of the dataset.
        model: Name of the model.
        values: Every setting of the run but its seed, flat, as RecBole reads them.
        seed: RecBole's seed: split, start and draws.
        local: Settings that say where and not what is computed (``data_path``, ``gpu_id`` ...); no part of the key.
        data: Hash of the dataset's files.
        code: Hash of the files with classes of the user's own and of files that settings name; empty without any.
    """

    dataset: str
    model: str
    values: Mapping[str, Any]
    seed: int
    local: Mapping[str, Any] = field(default_factory=dict, compare=False)
    data: str = ""
    code: str = ""

    @cached_property
    def key(self) -> str:
        """What the ledger knows the run by."""
        return digest(
            [self.dataset, self.data, self.model, self.values, self.seed, *([self.code] if self.code else [])]
        )

    def described(self) -> Record:
        """The setting as the head of its record."""
        head = {"dataset": self.dataset, "model": self.model, "values": dict(self.values), "seed": self.seed}
        return {"key": self.key, **json.loads(json.dumps(head, default=_plain))}


class Ledger:
    """All records of a folder, by key. Use it as a context to write.

    Args:
        folder: Where the files lie; made where absent.

    Raises:
        ValueError: If it cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            reason = "a file is in the way" if isinstance(error, FileExistsError) else error.strerror
            raise ValueError(f"cannot make the folder {folder} ({reason}); name another with --out") from error
        self._records: dict[str, Record] = {}
        self._read: dict[Path, int] = {}
        self._file: IO[bytes] | None = None
        self._lock: FileLock | None = None
        self._claims: dict[str, FileLock] = {}
        self.refresh()

    def __enter__(self) -> Ledger:
        number = 1
        while self._file is None:
            path = self.folder / f"runs-{number}.jsonl"
            lock = FileLock(self.folder / f".runs-{number}.lock")
            try:
                lock.acquire(blocking=False)
            except Timeout:
                number += 1
                continue
            self._lock, self._file = lock, _opened_to_append(path)
        self.refresh()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._file is not None and self._lock is not None
        for key in list(self._claims):
            self.release(key)
        with contextlib.suppress(OSError):  # others hold claims, or nobody has made any
            self._claims_folder.rmdir()
        self._file.close()
        self._lock.release()
        self._file = self._lock = None

    def find(self, key: str) -> Record | None:
        """The record of a key, or None; what another process has written since counts too."""
        if key not in self._records:
            self.refresh()
        return self._records.get(key)

    def add(self, record: Record) -> Record:
        """Keep a record on disk, synced, and hand it back as it will be read."""
        assert self._file is not None, "open the ledger with 'with' to write"
        line = json.dumps(record, default=_plain)
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:  # a full disk, which does not say where
            error.filename = self._file.name
            raise
        kept: Record = json.loads(line)
        self._keep(kept)
        return kept

    def claim(self, key: str) -> bool:
        """Take a run upon this writer until :meth:`release`; false where another writer of the folder has it.

        A claim ends with its process, however that ends.
        """
        self._claims_folder.mkdir(exist_ok=True)
        lock = FileLock(self._claims_folder / f"{key}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            return False
        self._claims[key] = lock
        return True

    def release(self, key: str) -> None:
        """Give a claim back; what the run has come to is to be added before."""
        lock = self._claims.pop(key, None)
        if lock is not None:
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()

    @property
    def _claims_folder(self) -> Path:
        return self.folder / ".claims"

    def records(self) -> list[Record]:
        """Every record, in the order of reading."""
        return list(self._records.values())

    def refresh(self) -> None:
        """Read what has been written since the last time."""
        for path in sorted(self.folder.glob("runs-*.jsonl")):
            with path.open("rb") as file:
                file.seek(self._read.get(path, 0))
                content = file.read()
            whole = content.rfind(b"\n") + 1  # what follows is torn, or being written
            self._read[path] = self._read.get(path, 0) + whole
            for line in content[:whole].splitlines():
                try:
                    self._keep(json.loads(line))
                except ValueError:
                    logger.warning("%s holds a line that a kill has torn; that run counts as not done", path)
                except (TypeError, KeyError):
                    logger.warning("%s holds a line that is no run of compare's; it is passed over", path)

    def _keep(self, record: Record) -> None:
        if "status" not in record:
            raise KeyError("status")
        old = self._records.get(record["key"])
        if old is None or old["status"] == FAILED:  # a retry stands over a failure, never the other way round
            self._records[record["key"]] = record


def _opened_to_append(path: Path) -> IO[bytes]:
    """The file, with its last line ended where a kill has torn it."""
    torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
    file = path.open("ab")
    if torn:
        file.write(b"\n")
        file.flush()
    return file
