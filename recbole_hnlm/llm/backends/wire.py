"""Requests and answers as the OpenAI protocol writes them, for single calls and for batches alike."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from recbole_hnlm.llm.backends.faults import Fault, clean
from recbole_hnlm.llm.backends.outcome import Answer, too_long
from recbole_hnlm.llm.backends.secret import Secret
from recbole_hnlm.llm.backends.tokens import BYTES_PER_TOKEN
from recbole_hnlm.llm.chat import ChatRequest
from recbole_hnlm.options.chat import OpenAIOptions

_READ_ERRORS = (KeyError, IndexError, TypeError, AttributeError, OverflowError)
_LONGEST_DETAIL = 300
UNASKED = "not asked"
"""Cause of failure of a request that its batch job did not come to."""
LOST = Answer(None, "lost", "the job ended without an answer; the next run asks again")
"""What became of a request of which its batch job says nothing."""


def request_body(request: ChatRequest, options: OpenAIOptions, with_schema: bool) -> dict[str, Any]:
    """The body of a request for a chat completion."""
    body: dict[str, Any] = {
        "model": options.chat_model,
        "messages": [dict(message) for message in request.messages],
        options.token_field: request.max_tokens,
    }
    if options.temperature is not None:
        body["temperature"] = options.temperature
    if with_schema and request.schema is not None:
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "reply", "schema": request.schema, "strict": is_strict(request.schema)},
        }
    return body


def is_strict(schema: Any) -> bool:
    """Whether a schema keeps to the rules of OpenAI's strict mode: closed objects with all properties required.

    >>> is_strict({"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]})
    False
    """
    if isinstance(schema, Mapping):
        if schema.get("type") == "object":
            properties = set(schema.get("properties", ()))
            if schema.get("additionalProperties") is not False or properties != set(schema.get("required", ())):
                return False
        return all(is_strict(value) for value in schema.values())
    return not isinstance(schema, (list, tuple)) or all(is_strict(value) for value in schema)


def read_answer(
    body: bytes | Mapping[str, Any], secret: Secret, limit: int, expected: int = 0, seconds: float = 0.0
) -> Answer:
    """The answer in the body of a chat completion.

    A server that does not count tokens, or counts none, is taken at the estimate of the prompt and a rule of thumb.

    Args:
        body: The body, as it came or read already.
        secret: The key, which must not be kept in any text.
        limit: Most tokens that the answer might have.
        expected: Tokens of the prompt, as estimated.
        seconds: How long the answer took.

    Raises:
        Fault: If the body is not what the protocol says; the cause is ``garbled``, or ``server error`` where it is one.
    """
    try:
        data = json.loads(body) if isinstance(body, bytes) else body
        _check_error(data, secret)
        choice = data["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        text, refusal = _text_of(message.get("content")), message.get("refusal")
        usage = data.get("usage")
        read, written = (
            usage.get(name) if isinstance(usage, Mapping) else None for name in ("prompt_tokens", "completion_tokens")
        )
        text = text if text is None else secret.hide(str(text))
        read = _count(read, expected)
        written = _count(written, math.ceil(len((text or "").encode(errors="replace")) / BYTES_PER_TOKEN))
    except (ValueError, RecursionError) as error:
        raise Fault("garbled", f"the body is no JSON ({secret.hide(str(error))})", unread=True) from None
    except _READ_ERRORS as error:
        raise Fault("garbled", f"the body is no chat completion ({type(error).__name__})", unread=True) from None
    if finish == "length":
        return too_long(limit, read, written, seconds)
    if refusal or finish == "content_filter":
        detail = secret.hide(str(refusal or "by the server's filter"))
        return Answer(None, "refused", detail, read, written, seconds, final=True)
    if text is None or not text.strip():
        return Answer(None, "empty", "the answer holds no text", read, written, seconds)
    return Answer(text, "", "", read, written, seconds, final=True)


def _count(told: object, estimate: int) -> int:
    """Tokens as a server tells them; the estimate where it tells none, or 0, or what is no number of tokens."""
    if isinstance(told, (int, float)) and math.isfinite(told) and told >= 1:
        return int(told)
    return estimate


def _text_of(content: Any) -> Any:
    """An answer's text, which some servers hand out in parts."""
    if not isinstance(content, list):
        return content
    return "".join(str(part.get("text") or "") for part in content)


def _check_error(data: Mapping[str, Any], secret: Secret) -> None:
    """Tell an error that comes as an answer, with status 200, in the server's own words."""
    error = data.get("error") if isinstance(data, Mapping) and not data.get("choices") else None
    if error:
        told = error.get("message") or error if isinstance(error, Mapping) else error
        raise Fault("server error", clean(told, secret))


def read_line(
    line: bytes, limits: Mapping[bytes, int], secret: Secret, expected: int = 0
) -> tuple[bytes | None, Answer]:
    """A line of a batch job's answers: the request it belongs to, None if that cannot be told, and the answer.

    Args:
        line: The line.
        limits: Keys of the job's requests in the cache, each with the most tokens of its answer.
        secret: What no message may hold.
        expected: Tokens of a prompt, as estimated, for servers that count none.
    """
    try:
        entry = json.loads(line)
        digest = bytes.fromhex(entry["custom_id"])
        response = entry.get("response") or {}
        if response.get("status_code") == 200:
            return digest, read_answer(response["body"], secret, limits.get(digest, 0), expected)
        detail = entry.get("error") or response.get("body")
        told = secret.hide(json.dumps(detail))[:_LONGEST_DETAIL]
        remedy = "; llm_json_schema=never sends none" if "response_format" in told else ""
        return digest, Answer(None, "rejected" if response else UNASKED, told + remedy)
    except Fault as fault:
        return digest, Answer(None, fault.cause, fault.detail)
    except (ValueError, *_READ_ERRORS):
        return None, LOST
