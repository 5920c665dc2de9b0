"""A run of the openai backend in a process of its own, for tests that kill it or look at all that it leaves.

``python tests/chat_run.py URL FOLDER COUNT CONCURRENCY LEVEL`` asks COUNT prompts, of which one in twenty meets a fault at
its first attempt, and writes a line per reply to ``replies-PID.txt`` and its log to ``run.log``.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from recbole_hnlm.llm.backends.openai_chat import OpenAIBackend
from recbole_hnlm.llm.chat import ChatRequest
from recbole_hnlm.options.chat import OpenAIOptions

FAULTS = ("429:0.01", "500", "cut", "garbled", "empty", "429,503") * 10 + ("stall",)


def prompt(number: int) -> str:
    """The text of a prompt."""
    fault = f"[[{FAULTS[number // 20 % len(FAULTS)]}]] " if number % 20 == 3 else ""
    return f"{fault}prompt {number}"


def requests(count: int) -> Iterator[ChatRequest]:
    for number in range(count):
        yield ChatRequest(f"k{number}", ({"role": "user", "content": prompt(number)},), "t-1", max_tokens=64)


def main(url: str, folder: str, count: str, concurrency: str, level: str) -> None:
    logging.basicConfig(filename=Path(folder) / "run.log", level=level)
    options = OpenAIOptions("m", url, first_wait=0.02, timeout=3.0, concurrency=int(concurrency))
    backend = OpenAIBackend(options, Path(folder) / "cache")
    with (Path(folder) / f"replies-{os.getpid()}.txt").open("w", buffering=1) as replies:
        for reply in backend.complete(requests(int(count))):
            replies.write(json.dumps([reply.key, reply.text, reply.cached]) + "\n")
            sys.stdout.write(f"{reply.key}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
