"""How many tokens a prompt has, before anybody is asked."""

from __future__ import annotations

import importlib
import logging
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

logger = logging.getLogger(__name__)
BYTES_PER_TOKEN = 3.5
"""The rule of thumb where no tokenizer is at hand: English text has about four bytes a token, other text fewer."""
_TOKENS_AROUND = 4
_LOAD_SECONDS = 10.0
Messages = Sequence[Mapping[str, str]]


class TokenCounter(Protocol):
    """Counts the tokens of prompts.

    Attributes:
        source: What counts, for the table of an estimate.
    """

    source: str

    def count(self, messages: Messages) -> int:
        """Tokens of a prompt with what surrounds its messages."""
        ...


class RuleOfThumb:
    """A token for every 3.5 bytes of UTF-8, and four around every message.

    >>> RuleOfThumb().count([{"role": "user", "content": "Seven words make about nine or ten tokens."}])
    16
    """

    source = f"{BYTES_PER_TOKEN} bytes a token"

    def count(self, messages: Messages) -> int:
        """Tokens of a prompt, estimated."""
        return sum(
            _TOKENS_AROUND + math.ceil(len(message["content"].encode("utf-8", "replace")) / BYTES_PER_TOKEN)
            for message in messages
        )


class TiktokenCounter:
    """OpenAI's own tokenizer."""

    def __init__(self, encoding: Any) -> None:
        """Count with a tiktoken ``Encoding``."""
        self.source = f"tiktoken {encoding.name}"
        self._encoding = encoding

    def count(self, messages: Messages) -> int:
        """Tokens of a prompt; special tokens in a text count as text."""
        return sum(
            _TOKENS_AROUND + len(self._encoding.encode(message["content"], disallowed_special=()))
            for message in messages
        )


class TemplateCounter:
    """The tokenizer and chat template of a local model; exact."""

    def __init__(self, tokenizer: Any) -> None:
        """Count with a transformers tokenizer that has a chat template."""
        self.source = "the model's tokenizer"
        self._tokenizer = tokenizer

    def count(self, messages: Messages) -> int:
        """Tokens of a prompt in the model's chat template."""
        text = in_chat_template(self._tokenizer, messages)
        return len(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def in_chat_template(tokenizer: Any, messages: Messages) -> str:
    """A prompt in a model's chat template, up to where the answer begins.

    What a system message says is put before the first of the user where the template knows no such role.
    """
    from jinja2 import TemplateError

    told = [dict(message) for message in messages]
    try:
        return str(tokenizer.apply_chat_template(told, tokenize=False, add_generation_prompt=True))
    except TemplateError:
        if len(told) < 2 or told[0]["role"] != "system":
            raise
    first = {**told[1], "content": f"{told[0]['content']}\n\n{told[1]['content']}"}
    return str(tokenizer.apply_chat_template([first, *told[2:]], tokenize=False, add_generation_prompt=True))


def openai_counter(model: str, seconds: float = _LOAD_SECONDS) -> TokenCounter:
    """tiktoken's tokenizer of ``model``, or the rule of thumb.

    tiktoken fetches its tables when they are first used, which may hang without a network; after ``seconds`` the rule
    of thumb has to do.
    """
    found: list[Any] = []

    def load() -> None:
        try:
            found.append(importlib.import_module("tiktoken").encoding_for_model(model))
        except Exception as error:  # not installed, model unknown, or any of many network errors
            logger.debug("no tiktoken tokenizer for %s: %s", model, error)

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(seconds)
    if found:
        return TiktokenCounter(found[0])
    logger.info("tokens of %s are estimated at %s bytes each; its tokenizer is not at hand", model, BYTES_PER_TOKEN)
    return RuleOfThumb()
