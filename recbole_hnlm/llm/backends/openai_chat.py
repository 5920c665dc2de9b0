"""Chat models behind any server of the OpenAI protocol: OpenAI, vLLM, Ollama, llama.cpp."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import queue
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from recbole_hnlm.llm.backends.asker import Asker, SchemaSupport
from recbole_hnlm.llm.backends.base import CachedBackend, Model
from recbole_hnlm.llm.backends.jobs import jobs_directory
from recbole_hnlm.llm.backends.logs import quiet_clients
from recbole_hnlm.llm.backends.outcome import Answer, Job
from recbole_hnlm.llm.backends.reply_cache import ReplyCache
from recbole_hnlm.llm.backends.run import Done, Keep
from recbole_hnlm.llm.backends.secret import Secret, read_secret
from recbole_hnlm.llm.backends.spending import Budget, prices_of
from recbole_hnlm.llm.backends.summary import RunSummary
from recbole_hnlm.llm.backends.tokens import RuleOfThumb, TokenCounter, openai_counter
from recbole_hnlm.options.chat import OpenAIOptions, SpendingOptions

logger = logging.getLogger(__name__)
_ASSUMED_RATE = 60.0  # tokens a second of one answer, for estimates before anything was measured


class OpenAIBackend(CachedBackend):
    """A server of the OpenAI protocol, asked by the official client."""

    def __init__(
        self,
        options: OpenAIOptions,
        cache_dir: str | Path,
        spending: SpendingOptions | None = None,
        *,
        estimates_only: bool = False,
    ) -> None:
        """Prepare to ask; nothing is sent yet.

        Args:
            options: Which server, and how it is asked.
            cache_dir: Folder of the kept answers.
            spending: Prices and budget.
            estimates_only: Whether nothing will be asked, which needs no key.

        Raises:
            ImportError: If the client is not installed.
            ValueError: If there is no key where one is needed, or a budget without prices.
        """
        spending = spending or SpendingOptions()
        require_client()
        self._secret = read_secret(options, required=not estimates_only)
        self._options = options
        self._support = SchemaSupport(options.json_schema)
        super().__init__(describe(options, spending), ReplyCache(cache_dir), lambda: counter_of(options), spending)
        self._failures_allowed = options.failures_in_a_row
        under_way = sorted(jobs_directory(cache_dir, options).glob("*.json"))
        if under_way and not estimates_only:
            logger.warning(
                "%d batch jobs of %s are not over (%s); llm_backend=openai asks and pays for their requests once more, "
                "llm_backend=openai-batch waits for them",
                *(len(under_way), options.chat_model, under_way[0].parent),
            )

    def _open_session(self, summary: RunSummary, budget: Budget) -> OpenAISession:
        options, secret = self._options, self._secret
        return OpenAISession(
            lambda client: Asker(client, options, secret, self._support, summary, budget), options, secret, self._keep
        )


class OpenAISession:
    """Requests on their way to a server: an event loop in a thread of its own, and another that keeps answers.

    Answers are kept as they come, not as they are asked for, so that a slow asker who is killed loses none.
    """

    def __init__(self, make_asker: Callable[[Any], Asker], options: OpenAIOptions, secret: Secret, keep: Keep) -> None:
        """Start the loop; ``make_asker`` is called in it with the client."""
        self._options = options
        self._secret = secret
        self._keep = keep
        self._done: queue.SimpleQueue[Done | Exception] = queue.SimpleQueue()
        self._finished: asyncio.Queue[tuple[Job, Answer | Exception]]
        self._tasks: set[asyncio.Task[None]] = set()
        self._count = 0
        self._writer = ThreadPoolExecutor(1, "hnlm-keep")
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="hnlm-ask", daemon=True)
        self._thread.start()
        self._within(self._begin(make_asker))

    @property
    def has_room(self) -> bool:
        """Whether fewer requests are on their way than may be."""
        return self._count < self._options.concurrency

    @property
    def in_flight(self) -> int:
        """Requests on their way, and answers not handed out yet."""
        return self._count

    def submit(self, job: Job) -> None:
        """Send a request."""
        self._count += 1
        self._loop.call_soon_threadsafe(self._send, job)

    def collect(self) -> Done:
        """Wait for at least one answer.

        Raises:
            RunStopped: If no further request would succeed.
            RuntimeError: If answers cannot be kept.
        """
        found = self._done.get()
        if isinstance(found, Exception):
            raise found
        self._count -= len(found)
        return found

    def close(self) -> Done:
        """Wait for what is on its way, without another attempt, and return what was not handed out; it is kept."""
        self._loop.call_soon_threadsafe(self._asker.stop)
        self._within(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._writer.shutdown()
        rest: Done = []
        while not self._done.empty():
            found = self._done.get()
            rest += [] if isinstance(found, Exception) else found
        return rest

    def _within(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _begin(self, make_asker: Callable[[Any], Asker]) -> None:
        from openai import AsyncOpenAI

        quiet_clients()
        options = self._options
        self._client = AsyncOpenAI(
            api_key=self._secret.reveal(), base_url=options.base_url, timeout=options.timeout, max_retries=0
        )
        self._asker = make_asker(self._client)
        self._finished = asyncio.Queue()
        self._keeper = asyncio.create_task(self._keep_finished())

    def _send(self, job: Job) -> None:
        task = self._loop.create_task(self._work(job))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _work(self, job: Job) -> None:
        try:
            outcome: Answer | Exception = await self._asker.ask(job)
        except Exception as error:
            outcome = error
        self._finished.put_nowait((job, outcome))

    async def _keep_finished(self) -> None:
        """Keep whatever has come in since the last time in one transaction, then hand it on."""
        while True:
            found = [await self._finished.get()]
            while not self._finished.empty():
                found.append(self._finished.get_nowait())
            answers = [(job, outcome) for job, outcome in found if isinstance(outcome, Answer)]
            try:
                await self._loop.run_in_executor(self._writer, self._keep, answers)
                if answers:
                    self._done.put(answers)
            except Exception as error:
                self._done.put(error)
            for _, outcome in found:
                if isinstance(outcome, Exception):
                    self._done.put(outcome)
                self._finished.task_done()

    async def _end(self) -> None:
        await asyncio.gather(*self._tasks)
        await self._finished.join()
        self._keeper.cancel()
        await self._client.close()


def require_client() -> None:
    """Raise unless the official client is installed.

    Raises:
        ImportError: If it is not.
    """
    if importlib.util.find_spec("openai") is None:
        raise ImportError("the openai backends need its client; pip install openai")


def describe(options: OpenAIOptions, spending: SpendingOptions, discount: float = 1.0) -> Model:
    """What is known of the model that the options name.

    Raises:
        ValueError: If there is a budget in dollars but no price.
    """
    prices = prices_of(spending, options.chat_model, options.is_openai)
    return Model(
        name=options.chat_model,
        revision=options.chat_revision,
        decoding={"temperature": options.temperature},
        prices=None if prices is None else prices.scaled(discount),
        parallel=options.concurrency,
        assumed_rate=_ASSUMED_RATE,
        thinking_tokens=options.thinking_tokens,
    )


def counter_of(options: OpenAIOptions) -> TokenCounter:
    """What counts the tokens of the options' model: tiktoken for OpenAI's, a rule of thumb for others."""
    return openai_counter(options.chat_model) if options.is_openai else RuleOfThumb()
