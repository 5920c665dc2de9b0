"""Chat backends without a model: one that follows a script, and one that keeps its replies on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from recbole_hnlm.llm.chat import ChatReply, ChatRequest, Estimate

Script = Callable[[ChatRequest], "str | None"]


def good_reply(request: ChatRequest) -> str:
    """What a model that obeys would say, different for every prompt."""
    mark = hashlib.sha256(json.dumps(request.messages[:2]).encode()).hexdigest()[:6]
    assert request.schema is not None
    return json.dumps(_value(request.schema, mark))


def _value(schema: Mapping[str, Any], mark: str, place: int = 0, name: str = "") -> Any:
    if schema["type"] == "object":
        return {key: _value(inner, mark, place, key) for key, inner in schema["properties"].items()}
    if schema["type"] == "array":
        return [_value(schema["items"], f"{mark}.{place}", one) for one in range(schema["minItems"])]
    return place + 1 if schema["type"] == "integer" else f"{name} {mark} {place}"


class ScriptedBackend:
    """Answers by a script, last request of every seven first; remembers what it was asked.

    Args:
        script: Text of the reply, or None for a request that fails.
        lost: Keys that get no reply at all.
    """

    name, revision = "scripted", "1"
    decoding: Mapping[str, Any] = {}
    least_usable = 0.0

    def __init__(self, script: Script = good_reply, lost: Iterable[str] = ()) -> None:
        self.script, self.lost = script, set(lost)
        self.asked: list[ChatRequest] = []

    def complete(self, requests: Iterable[ChatRequest]) -> Iterator[ChatReply]:
        waiting: list[ChatRequest] = []
        for request in requests:
            waiting.append(request)
            if len(waiting) == 7:
                yield from map(self._reply, reversed(waiting))
                waiting = []
        yield from (self._reply(request) for request in reversed(waiting) if request.key not in self.lost)

    def _reply(self, request: ChatRequest) -> ChatReply:
        self.asked.append(request)
        text = self.script(request)
        if text is None:
            return ChatReply(request.key, None, "HTTP 500", 0, 0)
        return ChatReply(request.key, text, None, len(str(request.messages)) // 4, len(text) // 4)

    def kept(self, request: ChatRequest) -> ChatReply | None:
        return None

    def estimate(self, requests: Iterable[ChatRequest]) -> Estimate:
        return Estimate(sum(1 for _ in requests), 0, 0, 0)

    def asked_for(self, template: str) -> list[ChatRequest]:
        """What was asked with a template, e.g. ``item_profile``."""
        return [request for request in self.asked if re.search(f"/{template}$", request.template)]


class KeptBackend(ScriptedBackend):
    """Keeps each reply in a file of its own, and kills its process once it has made so many new ones."""

    def __init__(self, directory: Path, script: Script = good_reply, die_after: int | None = None) -> None:
        super().__init__(script)
        self.directory, self.left = directory, die_after
        directory.mkdir(parents=True, exist_ok=True)

    def _reply(self, request: ChatRequest) -> ChatReply:
        digest = hashlib.sha256(json.dumps([request.messages, request.template]).encode()).hexdigest()
        path = self.directory / digest
        if path.exists():
            return ChatReply(request.key, path.read_text(encoding="utf-8"), cached=True)
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        reply = super()._reply(request)
        if reply.text is not None:
            temporary = path.with_suffix(".tmp")
            temporary.write_text(reply.text, encoding="utf-8")
            temporary.replace(path)
        self.left = None if self.left is None else self.left - 1
        return reply
