"""What becomes of a request: a job on its way, an answer, and the errors that end a run."""

from __future__ import annotations

from dataclasses import dataclass

from recbole_hnlm.llm.chat import ChatRequest

UNANSWERED = frozenset({"rate limit", "server error", "timeout", "connection", "garbled", "rejected"})
"""Causes of failure without an answer; many in a row have one reason, and it is not the single request."""
PASSING = UNANSWERED - {"rejected"}
"""Causes of failure that may be gone when a stage has come to its end."""
CUT_OFF = "length"
"""Cause of failure of an answer that had too little room."""


class RunStopped(RuntimeError):
    """The run cannot go on; every answer so far is kept, and the same command takes up from there."""


class ServerSilent(RunStopped):
    """So many requests in a row brought no answer that the next ones will not either."""


class BudgetExceeded(RunStopped):
    """The next request could exceed the budget."""


@dataclass(frozen=True)
class Job:
    """A request that the cache could not answer.

    Attributes:
        request: The request.
        digest: Its key in the cache, 16 bytes.
        prompt_tokens: Tokens of the prompt, as estimated.
    """

    request: ChatRequest
    digest: bytes
    prompt_tokens: int


@dataclass(frozen=True)
class Answer:
    """What a model said, or why it said nothing.

    Attributes:
        text: The answer, or None where there is none.
        cause: Kind of failure, e.g. ``timeout``; empty where there is an answer.
        detail: The failure in words, without any key.
        prompt_tokens: Tokens read.
        completion_tokens: Tokens written.
        seconds: Time of the attempt that brought it.
        final: Whether asking again would bring the same, so that it is kept.
        unread: Attempts whose answer never came whole, which the server may have charged all the same.
    """

    text: str | None
    cause: str = ""
    detail: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    final: bool = False
    unread: int = 0

    @property
    def error(self) -> str | None:
        """The failure as one text, or None."""
        if self.text is not None:
            return None
        return f"{self.cause}: {self.detail}" if self.detail else self.cause


def too_long(limit: int, prompt_tokens: int, completion_tokens: int, seconds: float) -> Answer:
    """The failure of an answer that ``limit`` tokens did not suffice for."""
    detail = f"cut off after {limit} tokens; allow more by llm_thinking_tokens"
    return Answer(None, CUT_OFF, detail, prompt_tokens, completion_tokens, seconds, final=True)
