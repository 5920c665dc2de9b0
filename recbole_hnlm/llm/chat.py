"""What the offline part asks of a language model that chats, and what it gets back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol


@dataclass(frozen=True)
class ChatRequest:
    """One prompt.

    Attributes:
        key: What the asker calls it; unique within a run.
        messages: ``{"role": ..., "content": ...}`` in order.
        template: Name and version of the prompt's template, e.g. ``products-1/item_profile``.
        schema: JSON schema of the reply, or None for free text.
        max_tokens: Most tokens of the reply.
    """

    key: str
    messages: tuple[Mapping[str, str], ...]
    template: str
    schema: Mapping[str, Any] | None = None
    max_tokens: int = 512


@dataclass(frozen=True)
class ChatReply:
    """The answer to a request.

    Attributes:
        key: The request's.
        text: What the model wrote, or None where every attempt failed.
        error: Why there is no text.
        prompt_tokens: Tokens that were read, as the backend counts them; 0 where the cache answered.
        completion_tokens: Tokens that were written, likewise.
        cached: Whether the answer was kept from an earlier request.
        lost: Whether nothing was kept, so that the next run asks again.
        passing: Whether asking again in this run may bring an answer, and costs little where it does not.
    """

    key: str
    text: str | None
    error: str | None = None
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached: bool = False
    lost: bool = False
    passing: bool = False


@dataclass(frozen=True)
class Estimate:
    """What requests would take.

    Attributes:
        requests: Number of requests.
        cached: How many of them the cache answers for nothing.
        prompt_tokens: Tokens that would be read, without the cached ones.
        completion_tokens: Most tokens that would be written.
        cost: Most money, in US dollars, or None where prices are unknown.
        seconds: About how long, or None where nothing is known of the speed.
        assumed: Whether that stands on a speed that nobody measured.
    """

    requests: int
    cached: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None = None
    seconds: float | None = None
    assumed: bool = False


class ChatBackend(Protocol):
    """A language model that chats.

    Attributes:
        name: Name of the model, as the user gave it.
        revision: What else tells two models of that name apart; may be empty.
        decoding: Decoding settings that change replies, e.g. ``{"temperature": 0.0}``.
        least_usable: Share of a stage's prompts that must bring a usable answer for the stage to go on.
    """

    name: str
    revision: str
    decoding: Mapping[str, Any]
    least_usable: float

    def complete(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
        """One reply for each request, in any order; every reply is kept on disk before it is handed out."""
        ...

    def kept(self, request: ChatRequest) -> ChatReply | None:
        """The reply that is kept of an earlier run, or None; asks nothing."""
        ...

    def estimate(self, requests: Iterable[ChatRequest]) -> Estimate:
        """What :meth:`complete` would take; asks nothing."""
        ...
