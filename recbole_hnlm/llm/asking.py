"""Asks a language model many things: one repair for a reply of no use, one more try where a server lost the answer."""

from __future__ import annotations

import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from recbole_hnlm.llm.backends.outcome import ServerSilent
from recbole_hnlm.llm.chat import ChatBackend, ChatReply, ChatRequest
from recbole_hnlm.llm.progress import progress_bar
from recbole_hnlm.llm.replies import Answer, ReplyError
from recbole_hnlm.llm.stage_counts import StageCounts

logger = logging.getLogger(__name__)
_QUOTED = 2000
_NO_REASON = "no reason given"
REPAIR_MARK = "#repair"


def number_of(key: str) -> int:
    """The number at the end of a request's key, whether it is the first try or the repair.

    >>> number_of("judge-12#repair")
    12
    """
    return int(key.partition("#")[0].rpartition("-")[2])


Reader = Callable[[ChatRequest, str], Answer]


def ask(
    backend: ChatBackend, requests: Iterable[ChatRequest], read: Reader, counts: StageCounts, *, total: int = 0
) -> Iterator[tuple[str, Answer | None]]:
    """The answer to each request, in the order in which they come; None where there is none.

    Requests are made as the backend takes them and forgotten as it answers, with repairs among them, so memory holds
    those under way. What a server has lost is asked once more when all else has been, since a later stage is made of
    what this one brings. Every reply is in the backend's cache before it comes here: a run that was killed asks only
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
    stage = _Stage(backend, read, counts)
    with progress_bar(total, counts.stage, bool(total)) as bar:
        for answered in itertools.chain(stage.first(requests), stage.again()):
            bar.update(1)
            yield answered


class _Stage:
    """Requests of a stage, with those of them that come back: repairs, and what a server lost."""

    def __init__(self, backend: ChatBackend, read: Reader, counts: StageCounts) -> None:
        self._backend = backend
        self._read = read
        self._counts = counts
        self._repairs: deque[ChatRequest] = deque()
        self._lost: deque[ChatRequest] = deque()
        self._started = time.perf_counter() - counts.seconds

    def first(self, requests: Iterable[ChatRequest]) -> Iterator[tuple[str, Answer | None]]:
        """Every request once, with repairs among them; what was lost waits."""

        def with_repairs() -> Iterator[ChatRequest]:
            for request in requests:
                self._counts.requests += 1
                yield request
                yield from _drained(self._repairs)

        yield from self._answers(with_repairs(), waits=True)

    def again(self) -> Iterator[tuple[str, Answer | None]]:
        """What was lost, once more; a server that is silent still leaves it failed, and the next stage tells."""
        left = {request.key.removesuffix(REPAIR_MARK): request for request in self._lost}
        if not left:
            return
        reasons = self._counts.waiting
        self._counts.waiting = {}
        logger.warning("%s: asking %d prompts again whose answers were lost", self._counts.stage, len(left))
        try:
            for key, answer in self._answers(_drained(self._lost), waits=False):
                del left[key]
                yield key, answer
        except ServerSilent as error:
            logger.warning("%s: %d of them stay lost: %s", self._counts.stage, len(left), error)
        for key, request in left.items():
            self._counts.fail(key, reasons[request.key], lost=True)
            yield key, None

    def _answers(self, stream: Iterable[ChatRequest], waits: bool) -> Iterator[tuple[str, Answer | None]]:
        """Answers to ``stream`` and to its repairs; of what was lost nothing if it ``waits`` to be asked again."""
        counts = self._counts
        while stream:  # what is repaired too late for the first round takes a second one
            for request, reply in _replies(self._backend, stream, counts):
                counts.check(self._backend.least_usable)
                counts.seconds = time.perf_counter() - self._started
                if reply.passing and waits:
                    counts.waiting[request.key] = reply.error or _NO_REASON
                    self._lost.append(request)
                    continue
                key = request.key.removesuffix(REPAIR_MARK)
                if key != request.key:
                    yield key, _second_answer(key, request, reply, self._read, counts)
                    continue
                answer, repair = _first_answer(request, reply, self._read, counts)
                if repair is not None:
                    self._repairs.append(repair)
                else:
                    yield key, answer
            stream = list(_drained(self._repairs))


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
        counts.fail(request.key, reply.error or _NO_REASON, reply.lost)
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
        counts.fail(key, reply.error or _NO_REASON, reply.lost)
        return None
    try:
        answer = read(request, reply.text)
    except ReplyError as error:
        counts.fail(key, f"{error}, also after a repair")
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
