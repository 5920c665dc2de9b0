"""Chat models of OpenAI's Batch API: answers within a day, at half the price, and for runs that may be killed."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from recbole_hnlm.artefacts.storage import directory_lock
from recbole_hnlm.llm.backends.base import CachedBackend
from recbole_hnlm.llm.backends.batch_calls import ENDPOINT, BatchCalls
from recbole_hnlm.llm.backends.jobs import BatchJob, JobStore, JobWriter, Waiting, jobs_directory
from recbole_hnlm.llm.backends.openai_chat import counter_of, describe, require_client
from recbole_hnlm.llm.backends.outcome import Answer, BudgetExceeded, RunStopped
from recbole_hnlm.llm.backends.reply_cache import ReplyCache
from recbole_hnlm.llm.backends.run import as_reply
from recbole_hnlm.llm.backends.secret import read_secret
from recbole_hnlm.llm.backends.spending import BATCH_DISCOUNT, Budget
from recbole_hnlm.llm.backends.summary import RunSummary
from recbole_hnlm.llm.backends.wire import LOST, UNASKED, read_line, request_body
from recbole_hnlm.llm.chat import ChatReply, ChatRequest
from recbole_hnlm.options.chat import BatchOptions, OpenAIOptions, SpendingOptions

logger = logging.getLogger(__name__)
_MEGABYTE = 1_000_000
_OVER = {"completed", "failed", "expired", "cancelled"}
_KEPT_AT_A_TIME = 1000


class OpenAIBatchBackend(CachedBackend):
    """OpenAI's Batch API behind the cache of :class:`~recbole_hnlm.llm.backends.openai_chat.OpenAIBackend`.

    A run writes what is not known into jobs, submits them, waits, and puts the answers into the cache. The jobs lie on
    disk until their answers do, so that a killed run, started again, waits on where it stood; nothing is submitted
    twice. Replies come when all jobs are over. Memory grows by some hundred bytes a request. Two runs with one cache
    take turns.
    """

    def __init__(
        self,
        options: OpenAIOptions,
        cache_dir: str | Path,
        batch: BatchOptions | None = None,
        spending: SpendingOptions | None = None,
        *,
        estimates_only: bool = False,
    ) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            options: Which server, and how it is asked.
            cache_dir: Folder of the kept answers and the jobs.
            batch: Sizes of jobs and how often they are looked at.
            spending: The model's usual prices, which are halved here, and the budget.
            estimates_only: Whether nothing will be asked, which needs no key.

        Raises:
            ImportError: If the client is not installed.
            ValueError: If there is no key where one is needed, or a budget without prices.
        """
        spending = spending or SpendingOptions()
        require_client()
        self._secret = read_secret(options, required=not estimates_only)
        self._options = options
        self._batch = batch or BatchOptions()
        model = dataclasses.replace(describe(options, spending, BATCH_DISCOUNT), parallel=0)
        super().__init__(model, ReplyCache(cache_dir), lambda: counter_of(options), spending)
        self._directory = jobs_directory(cache_dir, options)
        self._directory.mkdir(parents=True, exist_ok=True)

    def complete(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for each request: what is known at once, the rest when all jobs are over.

        Raises:
            BudgetExceeded: If the next job could exceed the budget.
            RunStopped: If a job failed as a whole or ended before all of it was asked, or the server refuses to go on
                or cannot be reached.
            RuntimeError: If answers cannot be kept.
        """
        summary = self.summary = RunSummary(cost=None if self._model.prices is None else 0.0)
        started = time.perf_counter()
        budget = Budget(self._spending, self._model.prices, self.spent)
        with directory_lock(self._directory):
            run = _BatchRun(self, budget)
            try:
                yield from run.replies(requests)
            finally:
                run.close()
                summary.seconds = time.perf_counter() - started
                if summary.cost is not None:
                    summary.cost = budget.spent
                logger.info("%s, Batch API\n%s", self.name, summary.table())

    def parts(self) -> tuple[OpenAIOptions, BatchOptions, Path]:
        """The server, the sizes of jobs, and the folder where they lie."""
        return self._options, self._batch, self._directory


class _BatchRun:
    """One run: from requests to jobs to answers."""

    def __init__(self, backend: OpenAIBatchBackend, budget: Budget) -> None:
        self._backend = backend
        self._budget = budget
        self._options, self._batch, directory = backend.parts()
        self._secret = read_secret(self._options)
        self._store = JobStore(directory)
        self._waiting = Waiting(directory / "waiting.txt")
        self._calls = BatchCalls(self._options, self._secret, self._store, backend.summary)
        self._failures: dict[bytes, Answer] = {}
        self._states: dict[str, str] = {}
        self._unasked = 0

    def close(self) -> None:
        self._calls.close()
        self._waiting.close()

    def replies(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
        yield from self._write_jobs(requests)
        self._work_off()
        given: set[bytes] = set()
        for key, digest in self._waiting.all():
            answer = self._backend.cache.get(digest) or self._failures.get(digest, LOST)
            if digest in given:
                self._backend.summary.count_again(answer)
            yield as_reply(key, answer, first=digest not in given)
            given.add(digest)

    def _write_jobs(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
        """Write what is neither known nor in a job into new jobs; yields what is known."""
        backend, batch = self._backend, self._batch
        self._store.remove_unsent()  # whatever of them is still asked for is written anew, as these options cut it
        asked = {digest for job in self._store.jobs() for digest in self._store.limits(job)}
        writer = JobWriter(self._store, batch.batch_requests, batch.batch_megabytes * _MEGABYTE)
        for request in map(backend.widened, requests):
            backend.summary.requests += 1
            digest = backend.digest(request)
            answer = backend.known(request, digest)
            if answer is not None:
                backend.summary.count_again(answer)
                yield as_reply(request.key, answer, first=False)
                continue
            self._waiting.add(request.key, digest)
            if digest not in asked:
                asked.add(digest)
                tokens = backend.count(request) if backend.counts_tokens else 0
                writer.add(self._line(digest, request), tokens, request.max_tokens)
        writer.finish()

    def _line(self, digest: bytes, request: ChatRequest) -> str:
        body = request_body(request, self._options, self._options.json_schema != "never")
        entry = {"custom_id": digest.hex(), "method": "POST", "url": ENDPOINT, "body": body}
        return json.dumps(entry, default=dict) + "\n"

    def _work_off(self) -> None:
        """Submit, wait and merge until no job is left."""
        jobs = self._store.jobs()
        for job in jobs:
            if job.batch_id or job.sending:
                self._budget.hold(job.name, job.prompt_tokens, job.completion_tokens, job.requests)
        reserved = {job.name for job in jobs if job.batch_id or job.sending}
        while jobs:
            under_way = []
            for job in jobs:
                fits = job.name in reserved or self._reserve(job)
                if fits:
                    reserved.add(job.name)
                    job = job if job.batch_id else self._calls.submit(job)
                under_way.append(job)
            if not any(job.batch_id for job in under_way):
                found = self._budget.exceeded(str(self._backend.cache.path))
                raise BudgetExceeded(f"{found}; jobs of fewer requests, by llm_batch_requests, may still fit")
            jobs = [job for job in under_way if not (job.batch_id and self._is_merged(job))]
            if len(jobs) == len(under_way):
                time.sleep(self._batch.batch_poll)
        if self._unasked:
            raise RunStopped(
                f"{self._unasked} requests were not asked before their batch jobs expired or were cancelled; every "
                "answer so far is kept, and the same command submits the others anew"
            )

    def _reserve(self, job: BatchJob) -> bool:
        return self._budget.reserve(job.name, job.prompt_tokens, job.completion_tokens, job.requests)

    def _is_merged(self, job: BatchJob) -> bool:
        """Whether a job is over; then its answers are in the cache and it is forgotten."""
        found = self._calls.look(job)
        if found.status != self._states.get(job.name):
            self._states[job.name] = found.status
            logger.info("batch job %s (%s): %s", job.name, job.batch_id, found.status)
        if found.status not in _OVER:
            return False
        files = [name for name in (found.output_file_id, found.error_file_id) if name]
        if found.status == "failed" and not files:
            self._store.remove(job)
            errors = getattr(found.errors, "data", None) or []
            why = self._secret.hide("; ".join(str(error.message) for error in errors[:3])) or "no reason given"
            raise RunStopped(
                f"the server failed batch job {job.batch_id} as a whole ({why}); mend that and run the same command, "
                "which submits its requests anew"
            )
        unasked, missing = self._merge(job, files)
        if missing and found.status == "completed" and not job.short:
            self._store.save(dataclasses.replace(job, short=True))
            raise RunStopped(
                f"the server says that batch job {job.batch_id} is complete, and its files lack {missing} of its "
                f"{job.requests} answers; what came is kept, and the same command fetches the files once more, and "
                "asks anew what they lack then"
            )
        self._unasked += unasked + missing if found.status != "completed" else 0
        self._store.remove(job)
        return True

    def _merge(self, job: BatchJob, files: list[str]) -> tuple[int, int]:
        """Put a job's answers into the cache; returns how many requests were not asked, and how many have no line."""
        summary, limits = self._backend.summary, self._store.limits(job)
        read = written = unasked = 0
        expected = job.prompt_tokens // max(job.requests, 1)
        kept: list[tuple[bytes, int, Answer]] = []
        for file_id in files:
            for line in self._calls.download(job, file_id).splitlines():
                digest, answer = read_line(line, limits, self._secret, expected)
                limit = None if digest is None else limits.pop(digest, None)
                if digest is None or limit is None:
                    continue
                read, written = read + answer.prompt_tokens, written + answer.completion_tokens
                summary.count(answer)
                unasked += answer.cause == UNASKED
                kept.append((digest, limit, answer))
                if answer.text is None:
                    self._failures[digest] = answer
                if len(kept) >= _KEPT_AT_A_TIME:
                    self._backend.keep(kept)
                    kept.clear()
        self._backend.keep(kept)
        for _ in limits:
            summary.count(LOST)
        self._budget.settle(job.name, job.prompt_tokens, read, written)
        return unasked, len(limits)
