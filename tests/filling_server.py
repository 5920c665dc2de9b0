"""A server of the OpenAI protocol on loopback that answers every prompt with what its schema asks for."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any

WORDS = ("copper kettle", "rocket planet", "kitchen spoon", "galaxy comet")
INVENTED = ("maritime insurance law", "dental hygiene class", "quarterly tax advice", "horse riding lesson")


class ChatServer(http.server.ThreadingHTTPServer):
    """Answers every prompt with what its schema asks for, the same each time, and counts."""

    request_queue_size = 128
    """Connections that wait; of more than the usual 5 at once some are reset on a busy machine."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: Counter[str] = Counter()
        self.keys: set[str] = set()
        self.invents = False
        """Whether hard negatives are things that no shop of the dataset has."""
        self.pages_for = ""
        """First letters of prompts' digests that are answered with a page, as a proxy in the way does."""
        self.mended_after: int | None = None
        """Requests after which no page comes any more."""
        self.silent_after: int | None = None
        """Requests that are answered; later ones wait for :meth:`speak`."""
        self._speaking = threading.Event()

    def speak(self, until: int | None = None) -> None:
        """Let those go that wait, and answer from now on, or ``until`` so many were asked."""
        self.silent_after = until
        self._speaking.set()
        self._speaking = threading.Event()

    def wait_for_turn(self) -> None:
        """Return at once, or when the server may speak again."""
        speaking = self._speaking
        if self.silent_after is not None and self.asked.total() > self.silent_after:
            speaking.wait(120)

    @classmethod
    @contextlib.contextmanager
    def running(cls) -> Iterator[ChatServer]:
        """A server that answers until the block ends."""
        server = cls()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ChatServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = json.dumps(body["messages"])
        self.server.asked[prompt] += 1
        self.server.keys.add(self.headers["authorization"])
        self.server.wait_for_turn()
        mark = hashlib.sha256(prompt.encode()).hexdigest()[:6]
        mended = self.server.mended_after is not None and self.server.asked.total() > self.server.mended_after
        if mark[0] in self.server.pages_for and not mended:
            page = b"<html>502, but with status 200</html>"
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)
            return
        schema = body["response_format"]["json_schema"]["schema"]
        invents = self.server.invents and "summarization" not in schema["properties"]
        reply = json.dumps(filled(schema, mark, words=INVENTED if invents else WORDS))
        message = {"role": "assistant", "content": reply}
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": len(reply) // 4, "total_tokens": 0}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        with contextlib.suppress(ConnectionError):  # who asked may have been killed
            send_json(self, {"id": "1", "object": "chat.completion", "created": 0, "model": "tiny-chat",
                             "choices": [choice], "usage": usage})  # fmt: skip

    def log_message(self, *args: Any) -> None:
        pass


def send_json(handler: http.server.BaseHTTPRequestHandler, value: Any) -> None:
    """Answer a request with ``value``."""
    data = json.dumps(value).encode()
    handler.send_response(200)
    handler.send_header("content-type", "application/json")
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def filled(schema: dict[str, Any], mark: str, place: int = 0, words: tuple[str, ...] = WORDS) -> Any:
    """A value that a schema allows, with such words: those of the dataset lie near its items."""
    if schema["type"] == "object":
        return {key: filled(inner, mark, place, words) for key, inner in schema["properties"].items()}
    if schema["type"] == "array":
        return [filled(schema["items"], f"{mark}{one}", one, words) for one in range(schema["minItems"])]
    return place + 1 if schema["type"] == "integer" else f"{words[int(mark[0], 16) % 4]} number {mark}"
