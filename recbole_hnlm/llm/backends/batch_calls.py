"""What the Batch API is asked, with attempts repeated in a way that submits nothing twice."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from recbole_hnlm.llm.backends.faults import Fault, Refusal, sort_error
from recbole_hnlm.llm.backends.jobs import BatchJob, JobStore
from recbole_hnlm.llm.backends.logs import quiet_clients
from recbole_hnlm.llm.backends.outcome import RunStopped
from recbole_hnlm.llm.backends.retry import Backoff
from recbole_hnlm.llm.backends.secret import Secret
from recbole_hnlm.llm.backends.summary import RunSummary
from recbole_hnlm.options.chat import OpenAIOptions

logger = logging.getLogger(__name__)
ENDPOINT: Final = "/v1/chat/completions"
"""What the requests of a job are sent to."""
_MARK = "hnlm_job"
_MOST_LISTED = 1000
T = TypeVar("T")


class BatchCalls:
    """The calls of the Batch API that a run makes.

    A call that makes something at the server may have worked although its answer never came. So before it is made
    again, after a fault or after a kill, the server's list is searched for what it would make.
    """

    def __init__(self, options: OpenAIOptions, secret: Secret, store: JobStore, summary: RunSummary) -> None:
        """Open a client; repeated attempts are counted in ``summary``."""
        from openai import OpenAI

        quiet_clients()
        self._client = OpenAI(
            api_key=secret.reveal(), base_url=options.base_url, timeout=options.timeout, max_retries=0
        )
        self._options = options
        self._secret = secret
        self._store = store
        self._summary = summary
        self._backoff = Backoff(options.first_wait)

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def submit(self, job: BatchJob) -> BatchJob:
        """Bring a job to the server, from wherever it stands; its ids are on disk on return."""
        holder = [job]

        def move(job: BatchJob) -> BatchJob:
            self._store.save(job)
            holder[0] = job
            return job

        def upload() -> None:
            job = holder[0]
            file_id = self._find_file(job) if job.sending else None
            job = move(dataclasses.replace(job, sending=True))
            if file_id is None:
                with self._store.lines_path(job).open("rb") as lines:
                    file_id = str(self._client.files.create(file=(f"{job.name}.jsonl", lines), purpose="batch").id)
            move(dataclasses.replace(job, sending=False, file_id=file_id))

        def create() -> None:
            job = holder[0]
            batch_id = self._find_batch(job) if job.sending else None
            job = move(dataclasses.replace(job, sending=True))
            if batch_id is None:
                made = self._client.batches.create(
                    input_file_id=job.file_id,
                    endpoint=ENDPOINT,
                    completion_window="24h",
                    metadata={_MARK: job.name},
                )
                batch_id = str(made.id)
            move(dataclasses.replace(job, sending=False, batch_id=batch_id))

        if not job.file_id:
            self._repeated(upload)
        if not job.batch_id:
            self._repeated(create)
        logger.info("batch job %s of %d requests is %s at the server", job.name, job.requests, holder[0].batch_id)
        return holder[0]

    def look(self, job: BatchJob) -> Any:
        """The server's description of a submitted job."""
        return self._of(job, lambda: self._client.batches.retrieve(job.batch_id))

    def download(self, job: BatchJob, file_id: str) -> bytes:
        """The content of a file with answers of a job."""
        return self._of(job, lambda: bytes(self._client.files.content(file_id).content))

    def _of(self, job: BatchJob, call: Callable[[], T]) -> T:
        """The result of a call about a submitted job.

        Raises:
            RunStopped: Also where the server does not know the job.
        """
        from openai import NotFoundError

        def known() -> T:
            try:
                return call()
            except NotFoundError as error:
                raise RunStopped(
                    f"the server does not know batch job {job.batch_id} ({self._secret.hide(str(error))}): another key "
                    "has submitted it, or it is too old; use that key, or remove "
                    f"{self._store.directory / job.name}.json, and its requests are asked anew"
                ) from None

        return self._repeated(known)

    def _find_file(self, job: BatchJob) -> str | None:
        listed = itertools.islice(self._client.files.list(purpose="batch"), _MOST_LISTED)
        return next((str(entry.id) for entry in listed if entry.filename == f"{job.name}.jsonl"), None)

    def _find_batch(self, job: BatchJob) -> str | None:
        listed = itertools.islice(self._client.batches.list(limit=100), _MOST_LISTED)
        return next((str(entry.id) for entry in listed if (entry.metadata or {}).get(_MARK) == job.name), None)

    def _repeated(self, call: Callable[[], T]) -> T:
        """The result of ``call``, made again after a wait while there is hope.

        Raises:
            RunStopped: If there is none.
        """
        attempt = 0
        while True:
            attempt += 1
            try:
                return call()
            except Exception as error:
                fault = sort_error(error, self._secret)
            if isinstance(fault, Refusal):
                raise RunStopped(
                    f"the server refuses the batch ({fault}); does it have a Batch API? llm_backend=openai does without"
                ) from None
            if not isinstance(fault, Fault):
                raise fault from None
            if attempt >= self._options.attempts or fault.after > self._options.longest_wait:
                raise RunStopped(
                    f"the Batch API failed {attempt} times ({fault}); the jobs are kept in {self._store.directory}, "
                    "run the same command when the server answers again"
                ) from None
            self._summary.retried[fault.cause] += 1
            time.sleep(fault.after + self._backoff.wait(attempt))
