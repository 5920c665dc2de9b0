"""Jobs of the Batch API on disk: what was asked in which job, and how far each has come.

A job is a file of requests, one a line, and a small file with its state; its name is unique. Both appear whole or not
at all. The state is written before and after every step, so that after a kill it is known which step may have happened
at the server without this side hearing of it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from recbole_hnlm.artefacts.storage import write_text
from recbole_hnlm.options.chat import TOKEN_FIELDS, OpenAIOptions


@dataclass(frozen=True)
class BatchJob:
    """How far a job has come.

    Attributes:
        name: Unique; goes along to the server, so that the job can be recognised there.
        requests: Number of its requests.
        prompt_tokens: Tokens of its prompts, as estimated.
        completion_tokens: Most tokens of its answers.
        sending: Whether the file or the job may be at the server already without an id here.
        file_id: The server's id of the uploaded requests; empty before.
        batch_id: The server's id of the job; empty before.
        short: Whether its files were too short once, though it was complete.
    """

    name: str
    requests: int
    prompt_tokens: int
    completion_tokens: int
    sending: bool = False
    file_id: str = ""
    batch_id: str = ""
    short: bool = False


def jobs_directory(cache_dir: str | Path, options: OpenAIOptions) -> Path:
    """Where the jobs of a model at a server lie, however the server's address is written."""
    address = None if options.base_url is None else options.base_url.rstrip("/")
    server = hashlib.sha256(f"{address}\n{options.chat_model}".encode()).hexdigest()[:16]
    return Path(cache_dir) / "batches" / server


class JobStore:
    """The jobs of one model at one server that are not over yet."""

    def __init__(self, directory: Path) -> None:
        """Open the store in ``directory``; made if absent."""
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def add(self, lines: list[str], prompt_tokens: int, completion_tokens: int) -> BatchJob:
        """Make a job of request lines; durable on return."""
        name = f"hnlm-{time.time_ns():016x}-{uuid.uuid4().hex[:12]}"  # sorts by its making
        job = BatchJob(name, len(lines), prompt_tokens, completion_tokens)
        write_text(self.lines_path(job), lines)
        self.save(job)
        return job

    def save(self, job: BatchJob) -> None:
        """Write how far a job has come; durable on return."""
        write_text(self._state_path(job.name), [json.dumps(dataclasses.asdict(job), indent=1)])

    def remove(self, job: BatchJob) -> None:
        """Forget a job that is over."""
        self._state_path(job.name).unlink(missing_ok=True)
        self.lines_path(job).unlink(missing_ok=True)

    def jobs(self) -> list[BatchJob]:
        """The jobs that are not over, the oldest first; requests without a state were never sent and are removed."""
        found = []
        for path in sorted(self.directory.glob("*.json")):
            try:
                job = BatchJob(**json.loads(path.read_text(encoding="utf-8")))
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"{path} does not describe a job ({error}); see at the server whether job {path.stem} runs, and "
                    "remove the file"
                ) from error
            found.append(job)
        known = {job.name for job in found}
        for path in self.directory.glob("*.jsonl"):
            if path.stem not in known:
                path.unlink()
        return found

    def remove_unsent(self) -> None:
        """Forget the jobs of which nothing can be at the server."""
        for job in self.jobs():
            if not (job.sending or job.file_id or job.batch_id):
                self.remove(job)

    def limits(self, job: BatchJob) -> dict[bytes, int]:
        """Keys of a job's requests in the cache, each with the most tokens of its answer."""
        found = {}
        with self.lines_path(job).open(encoding="utf-8") as lines:
            for line in lines:
                entry = json.loads(line)
                limit = next(entry["body"][field] for field in TOKEN_FIELDS if field in entry["body"])
                found[bytes.fromhex(entry["custom_id"])] = int(limit)
        return found

    def lines_path(self, job: BatchJob) -> Path:
        """The file of a job's requests."""
        return self.directory / f"{job.name}.jsonl"

    def _state_path(self, name: str) -> Path:
        return self.directory / f"{name}.json"


class Waiting:
    """Who waits for which answer, kept in a file, since a batch may hold more requests than memory should."""

    def __init__(self, path: Path) -> None:
        """Nobody waits yet; an older file under ``path`` is emptied."""
        self._path = path
        self._handle = path.open("w", encoding="utf-8")

    def add(self, key: str, digest: bytes) -> None:
        """``key`` waits for the answer under ``digest``."""
        self._handle.write(f"{digest.hex()} {json.dumps(key)}\n")

    def all(self) -> Iterator[tuple[str, bytes]]:
        """Everybody who waits, in the order of their coming."""
        self._handle.flush()
        with self._path.open(encoding="utf-8") as lines:
            for line in lines:
                digest, _, key = line.partition(" ")
                yield json.loads(key), bytes.fromhex(digest)

    def close(self) -> None:
        """Send everybody home."""
        self._handle.close()
        self._path.unlink(missing_ok=True)


class JobWriter:
    """Gathers request lines into jobs as large as may be."""

    def __init__(self, store: JobStore, most: int, most_bytes: int) -> None:
        """Jobs go to ``store``; none has more than ``most`` lines or, but for a single line, ``most_bytes``."""
        self._store = store
        self._most = most
        self._most_bytes = most_bytes
        self._clear()

    def add(self, line: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Add a request with its tokens; a job that is full is written first."""
        size = len(line.encode())
        if len(self._lines) >= self._most or self._size + size > self._most_bytes:
            self.finish()
        self._lines.append(line)
        self._size += size
        self._read += prompt_tokens
        self._written += completion_tokens

    def finish(self) -> None:
        """Write what is gathered."""
        if self._lines:
            self._store.add(self._lines, self._read, self._written)
        self._clear()

    def _clear(self) -> None:
        self._lines: list[str] = []
        self._size = self._read = self._written = 0
