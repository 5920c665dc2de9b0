"""What all backends share: the cache, equal requests asked once, the budget, the estimate and the table at the end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from recbole_hnlm.llm.backends.outcome import CUT_OFF, Answer, Job
from recbole_hnlm.llm.backends.reply_cache import ReplyCache, digest_of_cut, request_digest
from recbole_hnlm.llm.backends.run import Run, Session, as_reply
from recbole_hnlm.llm.backends.spending import Budget, Prices
from recbole_hnlm.llm.backends.summary import RunSummary, estimate_table
from recbole_hnlm.llm.backends.tokens import TokenCounter
from recbole_hnlm.llm.chat import ChatReply, ChatRequest, Estimate
from recbole_hnlm.options.chat import SpendingOptions, Spent

logger = logging.getLogger(__name__)
_NO_LIMIT = 1 << 62


@dataclass(frozen=True)
class Model:
    """A model, and what is known of it.

    Attributes:
        name: Its name, as the user gave it.
        revision: What else tells two models of that name apart.
        decoding: Settings that change answers.
        prices: What it costs, or None where that is unknown.
        parallel: Answers that it works on at a time; 0 where that is not ours to know.
        assumed_rate: Tokens a second that an answer is taken to be written at while nothing was measured, or None where
            estimates had better give no time.
        thinking_tokens: Tokens of each answer beyond what its text needs.
    """

    name: str
    revision: str
    decoding: Mapping[str, Any]
    prices: Prices | None = None
    parallel: int = 1
    assumed_rate: float | None = None
    thinking_tokens: int = 0


class CachedBackend:
    """A chat model whose every answer is kept on disk before it is handed out.

    Attributes:
        name: Name of the model.
        revision: What else tells two models of that name apart.
        decoding: Settings that change answers.
        least_usable: Share of a stage's answers that must be usable.
        cache: Where answers are kept.
        summary: Counts of the last run.
        spent: What counts towards the limits.
        failed_in_a_row: Requests that have ended without an answer since the last one that had one, over all runs.
    """

    def __init__(
        self, model: Model, cache: ReplyCache, counter: Callable[[], TokenCounter], spending: SpendingOptions
    ) -> None:
        """Put ``model`` behind ``cache``; ``counter`` is called when tokens are first to be counted.

        The limits of ``spending`` hold for all that is asked of this backend, and of those that share its ``spent``.
        """
        self.name = model.name
        self.revision = model.revision
        self.decoding = model.decoding
        self.least_usable = spending.least_usable
        self.cache = cache
        self.summary = RunSummary()
        self.spent = Spent()
        self._model = model
        self._spending = spending
        self._make_counter = counter
        self._counter: TokenCounter | None = None
        self._failures_allowed = _NO_LIMIT
        self.failed_in_a_row = 0

    def complete(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for each request, in any order; a failed one has no text but an error.

        Requests are taken as there is room, so memory does not grow with their number. The run's table is logged at
        its end, also where it ends early.

        Raises:
            BudgetExceeded: If the next request could exceed the budget.
            RunStopped: If the server refuses to go on or cannot be reached.
            RuntimeError: If answers cannot be kept.
        """
        summary = self.summary = RunSummary(cost=None if self._model.prices is None else 0.0)
        budget = Budget(self._spending, self._model.prices, self.spent)
        started = time.perf_counter()
        session = self._open_session(summary, budget)
        try:
            yield from Run(self, session, budget).replies(map(self.widened, requests))
        finally:
            try:
                for job, answer in session.close():
                    budget.settle(job.digest, 0, answer.prompt_tokens, answer.completion_tokens, answer.unread)
                    summary.count(answer)
            finally:
                summary.seconds = time.perf_counter() - started
                if summary.cost is not None:
                    summary.cost = budget.spent
                self._note_rate(summary)
                logger.info("%s\n%s", self.name, summary.table())

    def kept(self, request: ChatRequest) -> ChatReply | None:
        """The reply that is kept of an earlier run, a lasting failure included, or None; asks nothing."""
        wide = self.widened(request)
        answer = self.known(wide, self.digest(wide))
        return None if answer is None else as_reply(request.key, answer, first=False)

    def estimate(self, requests: Iterable[ChatRequest]) -> Estimate:
        """What :meth:`complete` would take; asks nothing. The estimate's table is logged."""
        count = cached = prompt_tokens = completion_tokens = 0
        seen: set[bytes] = set()
        for request in map(self.widened, requests):
            count += 1
            digest = self.digest(request)
            if digest in seen or self.known(request, digest) is not None:
                cached += 1
                continue
            seen.add(digest)
            prompt_tokens += self.count(request)
            completion_tokens += request.max_tokens
        prices = self._model.prices
        seconds, assumed = self._seconds(count - cached, completion_tokens)
        estimate = Estimate(
            count,
            cached,
            prompt_tokens,
            completion_tokens,
            None if prices is None else prices.cost(prompt_tokens, completion_tokens),
            seconds,
            assumed,
        )
        source = "nobody" if self._counter is None else self._counter.source
        logger.info("estimate of %s\n%s", self.name, estimate_table(estimate, source))
        return estimate

    def _seconds(self, asked: int, written: int) -> tuple[float | None, bool]:
        """Time of so many answers with so many tokens at most, None where nobody knows; and whether it is assumed."""
        model = self._model
        at_once = max(min(model.parallel, asked), 1)
        each = self._spending.seconds_per_request or self.cache.seconds_per_request(self._rate_name)
        if each is not None and model.parallel:
            return asked * each / at_once, False
        rate = model.assumed_rate
        return (None, False) if rate is None or not model.parallel else (written / (rate * at_once), True)

    def digest(self, request: ChatRequest) -> bytes:
        """Key in the cache of a widened request: that of the request itself, whatever room was added."""
        narrow = replace(request, max_tokens=request.max_tokens - self._model.thinking_tokens)
        return request_digest(self.name, self.revision, self.decoding, narrow)

    def widened(self, request: ChatRequest) -> ChatRequest:
        """The request with room for what the model thinks first."""
        return replace(request, max_tokens=request.max_tokens + self._model.thinking_tokens)

    def known(self, request: ChatRequest, digest: bytes) -> Answer | None:
        """The kept answer to a widened request of that ``digest``; one that had too little room counts at its limit."""
        return self.cache.get(digest) or self.cache.get(digest_of_cut(digest, request.max_tokens))

    def count(self, request: ChatRequest) -> int:
        """Tokens of a request's prompt, as estimated."""
        if self._counter is None:
            self._counter = self._make_counter()
        return self._counter.count(request.messages)

    @property
    def counts_tokens(self) -> bool:
        """Whether a run needs the tokens of its prompts beforehand, which takes time."""
        return self._model.prices is not None

    @property
    def failures_allowed(self) -> int:
        """Requests in a row that may fail for want of the server."""
        return self._failures_allowed

    def _open_session(self, summary: RunSummary, budget: Budget) -> Session:
        """A session that keeps answers by ``self._keep``, counts repeats in ``summary`` and holds to ``budget``."""
        raise NotImplementedError

    def _keep(self, done: list[tuple[Job, Answer]]) -> None:
        self.keep([(job.digest, job.request.max_tokens, answer) for job, answer in done])

    def keep(self, done: Iterable[tuple[bytes, int, Answer]]) -> None:
        """Put what lasts of some answers into the cache, each with its request's key and the most tokens it might have.

        What was cut off lies apart, under its limit: with more room it is asked again, and the answer has its place.
        """
        lasting = [
            (digest_of_cut(digest, limit) if answer.cause == CUT_OFF else digest, answer)
            for digest, limit, answer in done
            if answer.text is not None or answer.final
        ]
        if lasting:
            self.cache.put(lasting)

    @property
    def _rate_name(self) -> str:
        return f"{self.name} {self.revision}".strip()

    def _note_rate(self, summary: RunSummary) -> None:
        if summary.answered:
            with contextlib.suppress(RuntimeError):  # an estimate is not worth an error
                tokens = summary.completion_tokens
                self.cache.add_rate(self._rate_name, summary.answered, summary.answer_seconds, tokens)
