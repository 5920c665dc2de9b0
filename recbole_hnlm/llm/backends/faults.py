"""What goes wrong between a client and a server of the OpenAI protocol, sorted by what is to be done about it."""

from __future__ import annotations

import asyncio
from typing import Any

from recbole_hnlm.llm.backends.outcome import RunStopped
from recbole_hnlm.llm.backends.retry import retry_after
from recbole_hnlm.llm.backends.secret import Secret

_LONGEST_DETAIL = 300
_NO_CREDIT = {
    "insufficient_quota",
    "billing_hard_limit_reached",
    "billing_not_active",
    "insufficient_balance",
    "arrearage",
}
_PAYMENT_REQUIRED = 402
_NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""Errors of the HTTP client, which has had two names, before a request is on its way."""
_MODERATION = ("moderation", "flagged", "content policy", "content_policy")
"""What a server says of one request that it will not answer, in place of a key that it does not accept."""
_TOO_SLOW = "no whole answer in time; raise llm_timeout, or lower llm_concurrency for a server that answers one by one"


class Fault(Exception):
    """An attempt failed and another may not.

    Attributes:
        cause: Its kind, as in the run's table.
        detail: What happened, in words, without any key.
        after: Seconds that the server asks to wait; 0 where it does not.
        unread: Whether the server had the request, and may have charged for an answer that did not come whole.
    """

    def __init__(self, cause: str, detail: str = "", after: float = 0.0, unread: bool = False) -> None:
        """A fault of the kind ``cause``."""
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail
        self.after = after
        self.unread = unread


class Refusal(Exception):
    """The server does not want this request, and would not want it again."""


def sort_error(error: Exception, secret: Secret) -> Exception:
    """The :class:`Fault`, :class:`Refusal` or :class:`RunStopped` that ``error`` of the client amounts to.

    An error of any other kind comes back as it is. Texts of the server are cut short and freed of the key.
    """
    import openai

    unread = type(error.__cause__).__name__ not in _NEVER_SENT
    if isinstance(error, (openai.APITimeoutError, asyncio.TimeoutError)):
        return Fault("timeout", _TOO_SLOW, unread=unread)
    if isinstance(error, openai.APIConnectionError):
        return Fault("connection", clean(error.__cause__ or error, secret), unread=unread)
    if isinstance(error, openai.APIStatusError):
        return _sort_status(error, clean(error, secret))
    if isinstance(error, (openai.OpenAIError, ValueError)):
        return Fault("garbled", clean(error, secret), unread=True)
    return error


def _sort_status(error: Any, detail: str) -> Exception:
    status = int(error.status_code)
    names = {str(getattr(error, name, None)).lower() for name in ("code", "type")}
    if status == _PAYMENT_REQUIRED or (status < 500 and names & _NO_CREDIT):
        return RunStopped(f"the account has no credit left ({detail}); add some and run the same command")
    if status == 429:
        return Fault("rate limit", detail, retry_after(error.response.headers))
    if status == 408:
        return Fault("timeout", detail)
    if status == 409 or status >= 500:
        return Fault("server error", detail, retry_after(error.response.headers))
    if status == 403 and any(word in detail.lower() for word in _MODERATION):
        return Refusal(detail)
    if status in (401, 403):
        return RunStopped(
            f"the server does not accept the key ({detail}); check the variable that llm_api_key_env names"
        )
    if status == 404:
        return RunStopped(f"the server knows no such model or address ({detail}); check llm_chat_model, llm_base_url")
    return Refusal(detail)


def clean(error: object, secret: Secret) -> str:
    """What a server or its client says, on one line, cut short and freed of the key."""
    text = secret.hide(" ".join(str(error).split()) or type(error).__name__)
    return text if len(text) <= _LONGEST_DETAIL else f"{text[:_LONGEST_DETAIL]}..."
