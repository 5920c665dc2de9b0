"""One pass of a backend over requests: who is asked, who waits, who gets what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

from recbole_hnlm.llm.backends.outcome import PASSING, UNANSWERED, Answer, Job, ServerSilent
from recbole_hnlm.llm.backends.spending import Budget
from recbole_hnlm.llm.chat import ChatReply, ChatRequest

if TYPE_CHECKING:
    from recbole_hnlm.llm.backends.base import CachedBackend

_MOST_REPEATS = 10_000
_REJECTED = "see whether it takes llm_token_field, llm_temperature (None sends none) and llm_json_schema so"
"""What to do where a server that answers refuses every request."""

Done = list[tuple[Job, Answer]]
"""Jobs with their answers."""
Keep = Callable[[Done], None]
"""Puts answers into the cache, durably on return; sessions call it before they hand answers out."""


class Session(Protocol):
    """A run of a model: jobs in, answers out, in any order.

    Attributes:
        has_room: Whether another job may come now.
        in_flight: Jobs taken that were not handed out yet.
    """

    @property
    def has_room(self) -> bool:
        """Whether another job may come now."""

    @property
    def in_flight(self) -> int:
        """Jobs taken that were not handed out yet."""

    def submit(self, job: Job) -> None:
        """Take a job."""

    def collect(self) -> Done:
        """Wait for at least one answer; what comes back is in the cache already."""

    def close(self) -> Done:
        """Keep what is still on its way and stop; returns what was not handed out."""


class Run:
    """One pass over requests: takes them as there is room, hands replies out."""

    def __init__(self, backend: CachedBackend, session: Session, budget: Budget) -> None:
        """A pass that has taken nothing yet."""
        self._backend = backend
        self._session = session
        self._budget = budget
        self._summary = backend.summary
        self._waiting: dict[bytes, list[str]] = {}  # digest of what is on its way -> keys of who waits for it
        self._repeats = 0
        self._held: Job | None = None  # what the budget has no room for yet
        self._exhausted = False

    def replies(self, source: Iterator[ChatRequest]) -> Iterator[ChatReply]:
        """A reply for each request of ``source``, in any order.

        Raises:
            BudgetExceeded: If the next request could exceed the budget.
            ServerSilent: If too many in a row brought no answer.
        """
        while True:
            yield from self._fill(source)
            if self._session.in_flight:
                yield from self._hand_out(self._session.collect())
            elif self._held is not None:
                raise self._budget.exceeded(str(self._backend.cache.path))
            elif self._exhausted:
                return

    def _fill(self, source: Iterator[ChatRequest]) -> Iterator[ChatReply]:
        """Submit jobs while there is room; yields what is known already."""
        while self._session.has_room and self._repeats < _MOST_REPEATS:
            if self._held is None:
                request = next(source, None)
                if request is None:
                    self._exhausted = True
                    return
                known = self._take(request)
                if known is not None:
                    yield as_reply(request.key, known, first=False)
            if self._held is not None:
                if not self._reserve(self._held):
                    return
                self._waiting[self._held.digest] = [self._held.request.key]
                self._session.submit(self._held)
                self._held = None

    def _reserve(self, job: Job) -> bool:
        return self._budget.reserve(job.digest, job.prompt_tokens, job.request.max_tokens)

    def _take(self, request: ChatRequest) -> Answer | None:
        """The answer to a request if it is known; else it becomes a job, or waits for an equal one."""
        self._summary.requests += 1
        digest = self._backend.digest(request)
        known = self._backend.known(request, digest)
        if known is not None:
            self._summary.count_again(known)
        elif digest in self._waiting:
            self._waiting[digest].append(request.key)
            self._repeats += 1
        else:
            tokens = self._backend.count(request) if self._backend.counts_tokens else 0
            self._held = Job(request, digest, tokens)
        return known

    def _hand_out(self, done: Done) -> Iterator[ChatReply]:
        for job, answer in done:  # all of them before the first is handed out, since the asker may stop there
            tokens = answer.prompt_tokens, answer.completion_tokens
            self._budget.settle(job.digest, job.prompt_tokens, *tokens, answer.unread)
            self._summary.count(answer)
        for job, answer in done:
            backend = self._backend
            backend.failed_in_a_row = backend.failed_in_a_row + 1 if answer.cause in UNANSWERED else 0
            if backend.failed_in_a_row >= backend.failures_allowed:
                failed, backend.failed_in_a_row = backend.failed_in_a_row, 0
                remedy = _REJECTED if answer.cause == "rejected" else "see that the server answers"
                raise ServerSilent(
                    f"{failed} requests in a row failed ({answer.error}); {remedy} and run the same command: all "
                    f"answers are kept in {backend.cache.path}"
                )
            for place, key in enumerate(self._waiting.pop(job.digest)):
                if place:
                    self._summary.count_again(answer)
                    self._repeats -= 1
                yield as_reply(key, answer, first=not place)


def as_reply(key: str, answer: Answer, first: bool) -> ChatReply:
    """An answer as the reply to ``key``; its tokens go to the ``first`` of those who asked for it."""
    read, written = (answer.prompt_tokens, answer.completion_tokens) if first else (0, 0)
    lost = not answer.final
    passing = lost and answer.cause in PASSING
    return ChatReply(key, answer.text, answer.error, read, written, cached=not first, lost=lost, passing=passing)
