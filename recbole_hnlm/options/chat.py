"""Options of the backends: frozen dataclasses with their meaning at the field.

A field ``concurrency`` is the configuration key ``llm_concurrency``.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, fields
from typing import ClassVar, Literal
from urllib.parse import urlsplit

from recbole_hnlm.options.requiring import require

OPENAI_URL = "https://api.openai.com/v1"
TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
"""Names of the field that limits an answer."""
_MOST_CONNECTIONS = 1000


def _positive(value: float | None) -> bool:
    return value is None or (value > 0 and math.isfinite(value))


@dataclass(frozen=True)
class OpenAIOptions:
    """Which server of the OpenAI protocol is asked, and how."""

    PREFIX: ClassVar[str] = "llm_"

    chat_model: str
    """Name of the model, as the server knows it."""
    base_url: str = OPENAI_URL
    """Address of the server with its version, e.g. ``http://localhost:8000/v1`` for vLLM."""
    api_key_env: str = "OPENAI_API_KEY"
    """Environment variable that holds the key. A server of one's own may do without; OpenAI's may not."""
    chat_revision: str = ""
    """What tells two models of that name apart, e.g. a checksum. Part of the key of every kept answer; the address is
    not, since the same model may be served elsewhere tomorrow."""
    temperature: float | None = 0.0
    """Sampling temperature, at least 0; ``None`` sends none, for models that refuse the field."""
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the field that limits an answer. OpenAI's reasoning models want ``max_completion_tokens``."""
    json_schema: Literal["auto", "always", "never"] = "auto"
    """Whether JSON schemas are sent as ``response_format``. ``auto`` tries once per schema and goes on without where
    the server refuses it; the Batch API, whose refusal comes a job later, is sent them unless ``never`` is set."""
    thinking_tokens: int = 0
    """Tokens that an answer may have beyond what its text needs. Models that think first want thousands; what was cut
    off is then asked again, what was answered is not."""
    concurrency: int = 16
    """Most requests on the way at a time, 1 to 1000. Servers answer 429 where it is too much for them."""
    timeout: float = 120.0
    """Seconds after which an answer is given up and asked for again, above 0."""
    attempts: int = 8
    """Most times that a request is sent before it counts as failed, at least 1."""
    first_wait: float = 1.0
    """Upper end of the first wait between attempts in seconds; it doubles with every attempt, up to 60. The wait is
    drawn uniformly below it (full jitter), so that many askers do not come back at the same moment."""
    longest_wait: float = 600.0
    """Longest ``Retry-After`` in seconds that is waited for; a server that asks for more ends the run."""
    failures_in_a_row: int = 50
    """Requests in a row that fail for want of the server, after all attempts, before the run ends; at least 1."""

    def __post_init__(self) -> None:
        require(bool(self.chat_model), "llm_chat_model is empty; name a model that the server knows")
        url = urlsplit(self.base_url)
        require(
            url.username is None and not url.query,
            "llm_base_url holds a user or a query; put the key in the variable that llm_api_key_env names",
        )
        require(
            url.scheme in ("http", "https") and bool(url.hostname),
            f"llm_base_url={self.base_url!r} is no http(s) address",
        )
        require(
            re.fullmatch("[A-Z_][A-Z0-9_]*", self.api_key_env) is not None,
            "llm_api_key_env must be the name of a variable in capitals, such as OPENAI_API_KEY, not a key",
        )
        temperature = self.temperature
        require(temperature is None or temperature >= 0, f"llm_temperature={temperature} is negative; 0 is greedy")
        require(
            1 <= self.concurrency <= _MOST_CONNECTIONS,
            f"llm_concurrency={self.concurrency} is outside 1 to {_MOST_CONNECTIONS}",
        )
        for name in ("timeout", "first_wait", "longest_wait"):
            require(_positive(getattr(self, name)), f"llm_{name}={getattr(self, name)} must be above 0 seconds")
        require(self.thinking_tokens >= 0, f"llm_thinking_tokens={self.thinking_tokens} is negative")
        for name in ("attempts", "failures_in_a_row"):
            require(getattr(self, name) >= 1, f"llm_{name}={getattr(self, name)} must be at least 1")

    @property
    def is_openai(self) -> bool:
        """Whether the server is OpenAI's own, whose prices and tokens are known."""
        return urlsplit(self.base_url).hostname == urlsplit(OPENAI_URL).hostname


@dataclass(frozen=True)
class SpendingOptions:
    """What answers cost, and how much of it a run may have."""

    PREFIX: ClassVar[str] = "llm_"

    input_price: float | None = None
    """US dollars per million tokens read; ``None`` looks OpenAI's models up in a dated table."""
    output_price: float | None = None
    """US dollars per million tokens written; ``None`` likewise."""
    budget_dollars: float | None = None
    """Most US dollars that one run spends over all its stages, at least 0; ``None`` sets no limit. Needs prices. An
    attempt whose answer did not come whole counts at its dearest."""
    budget_requests: int | None = None
    """Most requests that one run asks over all its stages, at least 0; kept answers and repeated attempts do not
    count."""
    seconds_per_request: float | None = None
    """Seconds of one answer, for estimates; ``None`` takes what earlier runs of the model measured."""
    least_usable: float = 0.1
    """Share of a stage's prompts that must have brought a usable answer, looked at from the 50th on; below it the run
    stops before it pays for more of the same. 0 never stops."""

    def __post_init__(self) -> None:
        for name in ("input_price", "output_price", "budget_dollars", "budget_requests"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"llm_{name}={value} is negative")
        require(
            (self.input_price is None) == (self.output_price is None),
            "llm_input_price and llm_output_price belong together; give both or none",
        )
        require(0 <= self.least_usable <= 1, f"llm_least_usable={self.least_usable} is outside 0 to 1")
        seconds = self.seconds_per_request
        require(_positive(seconds), f"llm_seconds_per_request={seconds} must be above 0")


@dataclass
class Spent:
    """What a run has asked and paid so far, over all its stages and backends.

    Attributes:
        dollars: US dollars; stays 0 where prices are unknown.
        requests: Requests sent, without repeated attempts.
    """

    dollars: float = 0.0
    requests: int = 0


@dataclass(frozen=True)
class BatchOptions:
    """Jobs of OpenAI's Batch API, which answers within a day at half the price."""

    PREFIX: ClassVar[str] = "llm_"

    batch_requests: int = 20_000
    """Most requests of a job, 1 to 50,000, which is the API's own limit."""
    batch_megabytes: int = 100
    """Most megabytes of a job's file, 1 to 200, which is the API's own limit."""
    batch_poll: float = 60.0
    """Seconds between two looks at the jobs, above 0."""

    def __post_init__(self) -> None:
        require(1 <= self.batch_requests <= 50_000, f"llm_batch_requests={self.batch_requests} is outside 1 to 50000")
        require(1 <= self.batch_megabytes <= 200, f"llm_batch_megabytes={self.batch_megabytes} is outside 1 to 200")
        require(_positive(self.batch_poll), f"llm_batch_poll={self.batch_poll} must be above 0 seconds")


@dataclass(frozen=True)
class TransformersOptions:
    """A chat model on this machine."""

    PREFIX: ClassVar[str] = "llm_"

    chat_model: str
    """Folder of the model, or its name on the Hugging Face hub."""
    chat_revision: str = ""
    """Commit or tag on the hub; a folder's is taken from its files."""
    chat_batch_size: int = 16
    """Prompts generated at a time, at least 1."""
    chat_quantization: Literal["none", "nf4"] = "none"
    """``nf4`` = 4-bit weights with double quantisation by bitsandbytes."""
    temperature: float = 0.0
    """Sampling temperature, at least 0; 0 is greedy. Above it a run that was interrupted gives other texts than one
    that was not, since draws go by the batch."""
    thinking_tokens: int = 0
    """Tokens that an answer may have beyond what its text needs, for models that think first."""
    seed: int = 2020
    """Seed of sampling; without effect at temperature 0."""

    def __post_init__(self) -> None:
        require(self.thinking_tokens >= 0, f"llm_thinking_tokens={self.thinking_tokens} is negative")
        require(bool(self.chat_model), "llm_chat_model is empty; name a folder or a model of the hub")
        require(self.chat_batch_size >= 1, f"llm_chat_batch_size={self.chat_batch_size} must be at least 1")
        require(self.temperature >= 0, f"llm_temperature={self.temperature} is negative; 0 is greedy")


ASKING_KEYS = frozenset(
    SpendingOptions.PREFIX + name
    for name in (
        *("base_url", "api_key_env", "token_field", "json_schema", "concurrency", "timeout", "attempts", "first_wait"),
        *("longest_wait", "failures_in_a_row"),
        *(field.name for options in (SpendingOptions, BatchOptions) for field in fields(options)),
    )
)
"""Keys that say how a chat model is asked and what that may cost, and not what it is asked or answers."""
