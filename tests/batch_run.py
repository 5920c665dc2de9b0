"""A run of the Batch API backend in a process of its own, for tests that kill it.

``python tests/batch_run.py URL FOLDER COUNT`` asks COUNT prompts in jobs of ten and writes the replies to
``replies.json`` when all are there.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from recbole_hnlm.llm.backends.openai_batch import OpenAIBatchBackend
from recbole_hnlm.llm.chat import ChatRequest
from recbole_hnlm.options.chat import BatchOptions, OpenAIOptions


def main(url: str, folder: str, count: str) -> None:
    options = OpenAIOptions("m", url, first_wait=0.01, timeout=5.0)
    backend = OpenAIBatchBackend(options, Path(folder) / "cache", BatchOptions(batch_requests=10, batch_poll=0.02))
    requests = (
        ChatRequest(f"k{number}", ({"role": "user", "content": f"prompt {number}"},), "t")
        for number in range(int(count))
    )
    replies = {reply.key: reply.text for reply in backend.complete(requests)}
    (Path(folder) / "replies.json").write_text(json.dumps(replies))


if __name__ == "__main__":
    main(*sys.argv[1:])
