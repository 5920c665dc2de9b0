"""Asks a language model many things: one repair for a reply that cannot be used, then a counted failure."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace

from recbole_hnlm.llm.backends.outcome import RunStopped
from recbole_hnlm.llm.chat import ChatBackend, ChatReply, ChatRequest
from recbole_hnlm.llm.figures import figures
from recbole_hnlm.llm.progress import progress_bar
from recbole_hnlm.llm.replies import Answer, ReplyError

logger = logging.getLogger(__name__)
_SHOWN_FAILURES = 3
_QUOTED = 2000
_PROMPTS_BEFORE_STOPPING = 50
REPAIR_MARK = "#repair"


def number_of(key: str) -> int:
    """The number at the end of a request's key, whether it is the first try or the repair.

    >>> number_of("judge-12#repair")
    12
    """
    return int(key.partition("#")[0].rpartition("-")[2])


@dataclass
class StageCounts:
    """What became of a stage's requests; ends as a short table.

    Attributes:
        stage: Name of the stage.
        rows: Lines of the stage's own, name and figure, before the common ones.
        requests: Prompts that were put, without repairs.
        answered: Prompts that ended with a usable answer.
        repaired: Of those, how many needed the second try.
        failed: Prompts without a usable answer.
        lost: Of those, how many brought nothing that is kept; the next run asks them again.
        texts_cut: Texts that were longer than allowed.
        cached: Replies that the cache gave, of prompts and repairs.
        prompt_tokens: Tokens that were read now.
        completion_tokens: Tokens that were written now.
        seconds: Wall time.
        failures: Key and reason of the first failures.
    """

    stage: str
    rows: list[tuple[str, str]] = field(default_factory=list)
    requests: int = 0
    answered: int = 0
    repaired: int = 0
    failed: int = 0
    lost: int = 0
    texts_cut: int = 0
    cached: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    failures: list[tuple[str, str]] = field(default_factory=list)

    def table(self) -> str:
        """The numbers, one a line."""
        rows = [
            *self.rows,
            ("requests", f"{self.requests:,}"),
            ("replies from cache", f"{self.cached:,}"),
            ("answered", f"{self.answered:,}"),
            ("answered after repair", f"{self.repaired:,}"),
            ("failed", f"{self.failed:,}"),
            ("texts cut to length", f"{self.texts_cut:,}"),
            ("tokens read / written", f"{self.prompt_tokens:,} / {self.completion_tokens:,}"),
            ("seconds", f"{self.seconds:.1f}"),
        ]
        return figures(rows)

    def log(self) -> None:
        """The table as one INFO entry, and the first failures as one warning."""
        logger.info("%s\n%s", self.stage, self.table())
        if self.failed:
            shown = "; ".join(f"{key}: {reason}" for key, reason in self.failures)
            logger.warning("%s: %d of %d requests failed, e.g. %s", self.stage, self.failed, self.requests, shown)

    def check(self, least_usable: float) -> None:
        """Stop where so few answers can be used that more of them would be money lost.

        Raises:
            RunStopped: If 50 prompts or more have ended and a smaller share than ``least_usable`` was answered.
        """
        ended = self.answered + self.failed
        if ended < _PROMPTS_BEFORE_STOPPING or self.answered >= least_usable * ended:
            return
        shown = "; ".join(f"{key}: {reason}" for key, reason in self.failures)
        told = f"{self.stage}: {self.failed} of the first {ended} prompts brought no usable answer ({shown})"
        if 2 * self.lost > self.failed:
            raise RunStopped(
                f"{told}. Of most nothing is kept: see to what the server says and run the same command, which asks "
                "for these alone, or go on without them by llm_least_usable=0"
            )
        raise RunStopped(
            f"{told}. All answers are kept, and are not asked for again: where the server was at fault, ask it anew "
            "under another llm_chat_revision. Else take another model, give one that thinks first room "
            "(llm_thinking_tokens=4000), look at llm_prompts, or go on regardless by llm_least_usable=0"
        )

    def _fail(self, key: str, reason: str, lost: bool = False) -> None:
        self.failed += 1
        self.lost += lost
        if len(self.failures) < _SHOWN_FAILURES:
            self.failures.append((key, reason))


Reader = Callable[[ChatRequest, str], Answer]


def ask(
    backend: ChatBackend, requests: Iterable[ChatRequest], read: Reader, counts: StageCounts, *, total: int = 0
) -> Iterator[tuple[str, Answer | None]]:
    """The answer to each request, in the order in which they come; None where there is none.

    Requests are made as the backend takes them and forgotten as it answers, with repairs among them, so memory holds
    those under way. Every reply is in the backend's cache before it comes here: a run that was killed asks only
    what is missing, and a reply that was bad is bad again, with its repair beside it.

    Args:
        backend: The model.
        requests: What is asked; keys unique.
        read: Makes an answer of a reply, or raises :class:`ReplyError`.
        counts: Is added to.
        total: Number of requests, for a progress bar; 0 shows none.

    Raises:
        ValueError: If a key occurs twice, or the backend answers what nobody asked.
        RunStopped: If hardly any answer can be used.
    """
    started = time.perf_counter() - counts.seconds
    repairs: deque[ChatRequest] = deque()

    def with_repairs() -> Iterator[ChatRequest]:
        for request in requests:
            yield request
            yield from _drained(repairs)

    with progress_bar(total, counts.stage, bool(total)) as bar:
        stream: Iterable[ChatRequest] = with_repairs()
        while stream:  # what is repaired too late for the first round takes a second one
            for request, reply in _replies(backend, stream, counts):
                counts.check(backend.least_usable)
                key = request.key.removesuffix(REPAIR_MARK)
                if key != request.key:
                    yield key, _second_answer(key, request, reply, read, counts)
                else:
                    bar.update(1)
                    counts.requests += 1
                    answer, repair = _first_answer(request, reply, read, counts)
                    if repair is not None:
                        repairs.append(repair)
                    else:
                        yield key, answer
                counts.seconds = time.perf_counter() - started
            stream = list(_drained(repairs))


def _drained(waiting: deque[ChatRequest]) -> Iterator[ChatRequest]:
    while waiting:
        yield waiting.popleft()


def _replies(
    backend: ChatBackend, requests: Iterable[ChatRequest], counts: StageCounts
) -> Iterator[tuple[ChatRequest, ChatReply]]:
    """Each request with its reply; one that the backend has lost comes last, with an error for a reply."""
    open_requests: dict[str, ChatRequest] = {}

    def remembered() -> Iterator[ChatRequest]:
        for request in requests:
            if request.key in open_requests:
                raise ValueError(f"two requests have the key {request.key!r}; make keys unique")
            open_requests[request.key] = request
            yield request

    for reply in backend.complete(remembered()):
        if reply.key not in open_requests:
            raise ValueError(f"backend {backend.name} answered {reply.key!r}, which is not open")
        counts.cached += reply.cached
        counts.prompt_tokens += reply.prompt_tokens
        counts.completion_tokens += reply.completion_tokens
        yield open_requests.pop(reply.key), reply
    for key, request in open_requests.items():
        yield request, ChatReply(key, None, "the backend gave no reply")


def _first_answer(
    request: ChatRequest, reply: ChatReply, read: Reader, counts: StageCounts
) -> tuple[Answer | None, ChatRequest | None]:
    if reply.text is None:
        counts._fail(request.key, reply.error or "no reason given", reply.lost)
        return None, None
    try:
        answer = read(request, reply.text)
    except ReplyError as error:
        return None, repair_request(request, reply.text, str(error))
    counts.answered += 1
    counts.texts_cut += answer.cut
    return answer, None


def _second_answer(
    key: str, request: ChatRequest, reply: ChatReply, read: Reader, counts: StageCounts
) -> Answer | None:
    if reply.text is None:
        counts._fail(key, reply.error or "no reason given", reply.lost)
        return None
    try:
        answer = read(request, reply.text)
    except ReplyError as error:
        counts._fail(key, f"{error}, also after a repair")
        return None
    counts.answered += 1
    counts.repaired += 1
    counts.texts_cut += answer.cut
    return answer


def repair_request(request: ChatRequest, reply: str, error: str) -> ChatRequest:
    """The same request once more, with the reply and what is wrong with it."""
    return replace(
        request,
        key=request.key + REPAIR_MARK,
        messages=(
            *request.messages,
            {"role": "assistant", "content": _sendable(reply[:_QUOTED]) or "(nothing)"},
            {
                "role": "user",
                "content": f"This reply cannot be used: {error}. Send the whole corrected reply, the JSON alone.",
            },
        ),
    )


def _sendable(text: str) -> str:
    """Without halves of surrogate pairs, which no request can hold."""
    return text.encode("utf-8", "ignore").decode()
