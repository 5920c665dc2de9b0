"""Answers kept on disk, so that nothing is asked and paid for twice.

One SQLite file in write-ahead mode with synchronous commits: an answer that was handed out survives a killed process
and a power cut, several processes of one host may share it, and memory does not grow with it. Rows are only ever
added. Each carries a checksum. The mode needs shared memory, so the file must not lie on a network file system.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
import threading
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts.storage import check_writable, directory_lock
from recbole_hnlm.llm.backends.outcome import Answer, RunStopped
from recbole_hnlm.llm.backends.salvage import Presence, cut_tail_size, finish_salvage, is_readable, salvage
from recbole_hnlm.llm.chat import ChatRequest

logger = logging.getLogger(__name__)
FILE_NAME = "chat_replies.sqlite"
_KEY_BYTES = 16
_BUSY_SECONDS = 120.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS replies (
    id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS rates (
    model TEXT PRIMARY KEY, requests INTEGER NOT NULL, seconds REAL NOT NULL, completion_tokens INTEGER NOT NULL);
"""


def request_digest(name: str, revision: str, decoding: Mapping[str, Any], request: ChatRequest) -> bytes:
    """Key of a request to a model, 16 bytes: everything that its answer depends on, and nothing else."""
    parts = {
        "model": name,
        "revision": revision,
        "decoding": dict(decoding),
        "template": request.template,
        "schema": request.schema,
        "max_tokens": request.max_tokens,
        "messages": [dict(message) for message in request.messages],
    }
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=dict)
    return hashlib.sha256(text.encode()).digest()[:_KEY_BYTES]


def digest_of_cut(digest: bytes, limit: int) -> bytes:
    """Key under which it is kept that ``limit`` tokens do not suffice for the answer to a request."""
    return hashlib.sha256(digest + f" cut off after {limit}".encode()).digest()[:_KEY_BYTES]


class ReplyCache:
    """The answers that models have given so far."""

    def __init__(self, directory: str | Path) -> None:
        """Open the cache in ``directory``; made if absent.

        A file that is damaged is put aside and what can be read of it is kept, with a warning.
        """
        self.path = Path(directory) / FILE_NAME
        check_writable(self.path.parent, "llm_cache_dir")
        self._lock = threading.Lock()
        with directory_lock(self.path.parent):
            self._presence = Presence(self.path.with_suffix(".lock"))
            if self._presence.alone:
                self._put_in_order()
            try:
                self._connection = _connect(self.path)
            except sqlite3.OperationalError as error:
                raise self._failure(error) from error
            self._presence.share()

    def get(self, digest: bytes) -> Answer | None:
        """The answer kept under ``digest``, or None. One that fails its checksum is removed with a warning."""
        with self._lock:
            row = self._execute("SELECT crc, body FROM replies WHERE digest = ?", (digest,)).fetchone()
            if row is None:
                return None
            if zlib.crc32(digest + row[1]) == row[0]:
                return _unpack(row[1])
            logger.warning("an answer in %s is damaged and was removed; it is asked for again", self.path)
            self._execute("DELETE FROM replies WHERE digest = ?", (digest,))
            return None

    def put(self, answers: Iterable[tuple[bytes, Answer]]) -> None:
        """Keep answers under their digests, durably on return; what is there already stays.

        Raises:
            RuntimeError: If the file cannot be written.
        """
        rows = []
        for digest, answer in answers:
            body = _pack(answer)
            rows.append((digest, zlib.crc32(digest + body), body))
        with self._lock:
            self._execute("BEGIN IMMEDIATE")
            try:
                self._connection.executemany("INSERT OR IGNORE INTO replies (digest, crc, body) VALUES (?, ?, ?)", rows)
                self._execute("COMMIT")
            except (sqlite3.Error, RuntimeError) as error:
                if self._connection.in_transaction:
                    self._connection.rollback()
                raise self._failure(error) from error

    def __len__(self) -> int:
        """Number of answers; reads the whole index."""
        with self._lock:
            return int(self._execute("SELECT count(*) FROM replies").fetchone()[0])

    def add_rate(self, model: str, requests: int, seconds: float, completion_tokens: int) -> None:
        """Add to what is known of a model's speed: answers, the sum of their seconds, and the tokens written."""
        with self._lock:
            self._execute(
                "INSERT INTO rates VALUES (?, ?, ?, ?) ON CONFLICT (model) DO UPDATE SET "
                "requests = requests + excluded.requests, seconds = seconds + excluded.seconds, "
                "completion_tokens = completion_tokens + excluded.completion_tokens",
                (model, requests, seconds, completion_tokens),
            )

    def seconds_per_request(self, model: str) -> float | None:
        """Mean seconds of an answer of ``model`` over all runs, or None before the first."""
        with self._lock:
            row = self._execute("SELECT seconds, requests FROM rates WHERE model = ?", (model,)).fetchone()
        return None if row is None or not row[1] else float(row[0]) / int(row[1])

    def close(self) -> None:
        """Close the file; other processes may go on with it."""
        with self._lock:
            self._connection.close()
            self._presence.end()

    def _execute(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _failure(self, error: Exception) -> Exception:
        if isinstance(error, RuntimeError):
            return error
        if not isinstance(error, sqlite3.OperationalError) and isinstance(error, sqlite3.DatabaseError):
            self._marker.touch()  # a damage that opening did not see
        return RunStopped(
            f"{self.path}: {error}; check the disk and run the same command again, which repairs the file if need be"
        )

    @property
    def _marker(self) -> Path:
        return self.path.with_suffix(".damaged-mark")

    def _put_in_order(self) -> None:
        finish_salvage(self.path)
        cut = cut_tail_size(self.path)
        if cut:
            logger.warning("the last write to %s was cut off; its %d bytes are dropped", self.path, cut)
        if self.path.exists() and (self._marker.exists() or not is_readable(self.path)):
            aside, count = salvage(self.path, _connect)
            logger.warning(
                "%s was damaged; %d answers of it are kept, the rest is asked for again; the old file is %s",
                *(self.path, count, aside.name),
            )
        self._marker.unlink(missing_ok=True)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.executescript(_SCHEMA)
    return connection


def _pack(answer: Answer) -> bytes:
    values = [answer.text, answer.cause, answer.detail, answer.prompt_tokens, answer.completion_tokens]
    return zlib.compress(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass"), 1)


def _unpack(body: bytes) -> Answer:
    text, cause, detail, prompt_tokens, completion_tokens = json.loads(
        zlib.decompress(body).decode("utf-8", "surrogatepass")
    )
    return Answer(text, cause, detail, prompt_tokens, completion_tokens, final=True)
