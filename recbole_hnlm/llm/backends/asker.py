"""One request to a server of the OpenAI protocol, with all its attempts."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from recbole_hnlm.llm.backends.faults import Fault, Refusal, sort_error
from recbole_hnlm.llm.backends.outcome import Answer, Job, RunStopped
from recbole_hnlm.llm.backends.retry import Backoff
from recbole_hnlm.llm.backends.secret import Secret
from recbole_hnlm.llm.backends.spending import Budget
from recbole_hnlm.llm.backends.summary import RunSummary
from recbole_hnlm.llm.backends.wire import read_answer, request_body
from recbole_hnlm.options.chat import OpenAIOptions

logger = logging.getLogger(__name__)
_EMPTY_ATTEMPTS = 2


class SchemaSupport:
    """Which JSON schemas a server takes, found out by the first request with each; the others wait for that one."""

    def __init__(self, mode: str) -> None:
        """``auto`` finds out, ``always`` and ``never`` know."""
        self._mode = mode
        self._known: dict[str, bool] = {}

    def known(self, schema: Mapping[str, Any] | None) -> bool | None:
        """Whether to send ``schema``; None where that is to be found out."""
        if schema is None or self._mode != "auto":
            return schema is not None and self._mode == "always"
        return self._known.get(schema_name(schema))

    def learn(self, schema: Mapping[str, Any], taken: bool) -> None:
        """Remember whether the server takes ``schema``."""
        self._known[schema_name(schema)] = taken


def schema_name(schema: Mapping[str, Any]) -> str:
    """Equal for equal schemas."""
    return json.dumps(schema, sort_keys=True, default=dict)


class Asker:
    """Asks until there is an answer, or no sense in asking further.

    A server's ``Retry-After`` holds all requests back, not just the one that was told.
    """

    def __init__(
        self,
        client: Any,
        options: OpenAIOptions,
        secret: Secret,
        support: SchemaSupport,
        summary: RunSummary,
        budget: Budget,
    ) -> None:
        """Ask through ``client``, an ``AsyncOpenAI`` without retries of its own; call it from one event loop."""
        self._client = client
        self._options = options
        self._secret = secret
        self._support = support
        self._summary = summary
        self._budget = budget
        self._backoff = Backoff(options.first_wait)
        self._open_from = 0.0
        self._stopping = asyncio.Event()
        self._told: set[str] = set()
        self._probes: dict[str, asyncio.Lock] = {}

    def stop(self) -> None:
        """Begin no further attempt."""
        self._stopping.set()

    async def ask(self, job: Job) -> Answer:
        """The answer to a job, a failure included.

        Raises:
            RunStopped: If no request will succeed: a refused key, an unknown model, no credit, a wait beyond bounds.
        """
        read = written = unread = 0
        fault = Fault("stopped", "the run ended before")
        for attempt in range(1, self._options.attempts + 1):
            await self._wait_for_gate()
            if self._stopping.is_set():
                break
            if attempt > 1:
                self._summary.retried[fault.cause] += 1
            try:
                answer = await self._attempt(job)
            except Refusal as refusal:
                return Answer(None, "rejected", str(refusal), read, written, unread=unread)
            except Fault as found:
                fault = found
                self._tell_first(found)
                unread += found.unread
                if found.unread and attempt < self._options.attempts and not self._budget.repeat(job.digest):
                    break
            else:
                read, written = read + answer.prompt_tokens, written + answer.completion_tokens
                if answer.cause != "empty" or attempt >= _EMPTY_ATTEMPTS:
                    return dataclasses.replace(answer, prompt_tokens=read, completion_tokens=written, unread=unread)
                fault = Fault(answer.cause, answer.detail)
            if attempt < self._options.attempts:
                await self._wait(fault, attempt)
        return Answer(None, fault.cause, fault.detail, read, written, unread=unread)

    def _tell_first(self, fault: Fault) -> None:
        """A warning at the first fault of its kind, since it may take minutes until a request counts as failed."""
        if fault.cause not in self._told:
            self._told.add(fault.cause)
            logger.warning("%s (%s); each request has %d attempts", fault.cause, fault.detail, self._options.attempts)

    async def _attempt(self, job: Job) -> Answer:
        schema = job.request.schema
        known = self._support.known(schema)
        if schema is None or known is not None:
            return await self._post(job, bool(known))
        async with self._probes.setdefault(schema_name(schema), asyncio.Lock()):
            known = self._support.known(schema)
            if known is None:
                return await self._find_out(job, schema)
        return await self._post(job, known)

    async def _find_out(self, job: Job, schema: Mapping[str, Any]) -> Answer:
        """Ask with the schema, and without where that is refused; a request refused both ways teaches nothing."""
        try:
            answer = await self._post(job, True)
        except Refusal as refusal:
            answer = await self._post(job, False)
            self._support.learn(schema, False)
            logger.info("the server takes no JSON schema for %s (%s); going on without", job.request.template, refusal)
            return answer
        self._support.learn(schema, True)
        return answer

    async def _post(self, job: Job, with_schema: bool) -> Answer:
        body = request_body(job.request, self._options, with_schema)
        create = self._client.chat.completions.with_raw_response.create
        started = time.perf_counter()
        try:
            # The client's own limit is per read: a server that drips would never reach it.
            response = await asyncio.wait_for(create(**body), self._options.timeout)
            content = response.content
        except Exception as error:
            raise sort_error(error, self._secret) from None  # the cause may hold the key
        seconds = time.perf_counter() - started
        return read_answer(content, self._secret, job.request.max_tokens, job.prompt_tokens, seconds)

    async def _wait(self, fault: Fault, attempt: int) -> None:
        if fault.after > self._options.longest_wait:
            raise RunStopped(
                f"the server asks to wait {fault.after:.0f} s, more than llm_longest_wait="
                f"{self._options.longest_wait:g} ({fault.detail}); run the same command then"
            )
        if fault.after:
            self._open_from = max(self._open_from, time.monotonic() + fault.after)
        await self._sleep(self._backoff.wait(attempt) + fault.after)

    async def _wait_for_gate(self) -> None:
        while (delay := self._open_from - time.monotonic()) > 0 and not self._stopping.is_set():
            await self._sleep(delay)

    async def _sleep(self, seconds: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), seconds)
        except (asyncio.TimeoutError, TimeoutError):
            return
