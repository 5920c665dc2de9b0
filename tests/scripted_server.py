"""A real HTTP server of the OpenAI protocol on loopback whose faults are written into the prompts.

A prompt that begins with ``[[429,500]]`` gets status 429 at its first attempt, 500 at its second, and answers from then
on. What is counted is what tests are about: how often each prompt was asked and answered.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import threading
import time
from collections import Counter
from typing import Any

from scripted_batches import Batches

CUT = "cut"
STALL_SECONDS = 5.0
USAGES: dict[str, Any] = {
    "words": "10 tokens", "below 0": {"prompt_tokens": -4_000_000, "completion_tokens": -1},
    "texts": {"prompt_tokens": "many", "completion_tokens": None}, "none": None,
    "endless": {"prompt_tokens": float("inf"), "completion_tokens": float("nan")},
}  # fmt: skip


class ScriptedServer:
    """Runs in a thread of the test, or by itself as ``python -m``."""

    def __init__(self, *, takes_schemas: bool = True, delay: float = 0.0) -> None:
        self.takes_schemas = takes_schemas
        self.delay = delay
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.moments: dict[str, list[float]] = {}
        self.schemas = self.running = self.most_running = 0
        self.keys: set[str] = set()
        self.batches = Batches()
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> ScriptedServer:
        threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True).start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)

    async def _serve(self) -> None:
        self._stop = asyncio.Event()
        server = await asyncio.start_server(self._connection, "127.0.0.1", self.port, limit=1 << 26)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._stop.wait()
        server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                method, path, _ = line.decode().split()
                headers = {}
                while (line := await reader.readline()) not in (b"\r\n", b""):
                    name, _, value = line.decode().partition(":")
                    headers[name.lower()] = value.strip()
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.keys.add(headers.get("authorization", ""))
                status, reply, extra = await self._answer(method, path, headers, body)
                data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                head = "".join(f"{name}: {value}\r\n" for name, value in extra.items())
                promised = len(data) * (2 if status == 0 else 1)  # status 0: cut in the middle of the body
                writer.write(
                    f"HTTP/1.1 {status or 200} X\r\ncontent-type: application/json\r\ncontent-length: {promised}\r\n{head}\r\n".encode()
                )
                writer.write(data)
                await writer.drain()
                if status == 0:
                    break
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _answer(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, Any, dict[str, str]]:
        path = path.split("?")[0]
        if path == "/stats":
            return 200, {"asked": self.asked, "answered": self.answered, "keys": sorted(self.keys)}, {}
        if path == "/v1/chat/completions":
            self.running += 1
            self.most_running = max(self.most_running, self.running)
            try:
                return await self._chat(json.loads(body), headers)
            finally:
                self.running -= 1
        status, reply = self.batches.handle(method, path, headers, body)
        return status, reply, {}

    async def _chat(self, request: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
        prompt = request["messages"][-1]["content"]
        self.asked[prompt] += 1
        self.moments.setdefault(prompt, []).append(time.monotonic())
        if "response_format" in request:
            if not self.takes_schemas:
                return 400, {"error": {"message": "response_format is not supported"}}, {}
            self.schemas += 1
        script = re.match(r"\[\[(.*?)\]\]", prompt)
        steps = script[1].split(",") if script else []
        step = steps[self.asked[prompt] - 1] if self.asked[prompt] <= len(steps) else "ok"
        if self.delay:
            await asyncio.sleep(self.delay)
        if step == "stall":
            await asyncio.sleep(STALL_SECONDS)
        status, reply, extra = scripted(step, prompt, headers)
        if status == 200 and step == "ok":
            self.answered[prompt] += 1
        return status, reply, extra


def scripted(step: str, prompt: str, headers: dict[str, str]) -> tuple[int, Any, dict[str, str]]:
    name, _, value = step.partition(":")
    if name == "429":
        return 429, {"error": {"message": "slow down"}}, {"retry-after": value or "0"}
    if name == "quota":
        return 429, {"error": {"message": "no credit", "code": "insufficient_quota"}}, {}
    if name == "arrears":
        return 400, {"error": {"message": "access denied", "code": "Arrearage"}}, {}
    if name == "worded":
        return 200, {"error": {"message": "out of credits", "code": 502}}, {}
    if name == "401":
        return 401, {"error": {"message": f"wrong key {headers.get('authorization')}"}}, {}
    if name.isdigit():
        return int(name), {"error": {"message": f"scripted {name} for {headers.get('authorization')}"}}, {}
    if name == CUT:
        return 0, completion(prompt), {}
    if name == "garbled":
        return 200, b"<html>not json", {}
    if name == "shapeless":
        return 200, {"hello": 1}, {}
    if name == "empty":
        return 200, completion(""), {}
    if name == "flagged":
        return 403, {"error": {"message": "the model requires moderation and your input was flagged"}}, {}
    if name == "parts":
        answer = completion("")
        answer["choices"][0]["message"]["content"] = [
            {"type": "text", "text": "in "},
            {"type": "text", "text": "parts"},
        ]
        return 200, answer, {}
    if name == "counts":
        return 200, {**completion("counted"), "usage": USAGES[value]}, {}
    if name == "noschema":
        return 400, {"error": {"message": "response_format of type json_schema is not supported"}}, {}
    if name == "length":
        return 200, completion('{"summ', "length"), {}
    if name == "truncated":
        return 200, completion('{"summarization": "a'), {}
    if name == "shape":
        return 200, completion('["not", "an object"]'), {}
    if name == "echo":
        return 200, completion(f"you sent {headers.get('authorization')}"), {}
    return 200, completion(f"answer to {prompt}"), {}


def completion(text: str, finish: str = "stop") -> dict[str, Any]:
    message = {"role": "assistant", "content": text}
    usage = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    return {
        "id": "c",
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": usage,
    }


def main() -> None:
    """Serve until the process is ended; the port is the first line of the output."""
    server = ScriptedServer()
    server.__enter__()
    sys.stdout.write(f"{server.port}\n")
    sys.stdout.flush()
    threading.Event().wait()


if __name__ == "__main__":
    main()
