"""Chat models on this machine, run by transformers, behind the cache."""

from __future__ import annotations

import importlib.util
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recbole_hnlm.llm import weights
from recbole_hnlm.llm.backends.base import CachedBackend, Model
from recbole_hnlm.llm.backends.generator import ChatGenerator
from recbole_hnlm.llm.backends.outcome import Job
from recbole_hnlm.llm.backends.reply_cache import ReplyCache
from recbole_hnlm.llm.backends.run import Done, Keep
from recbole_hnlm.llm.backends.spending import Budget
from recbole_hnlm.llm.backends.summary import RunSummary
from recbole_hnlm.llm.backends.tokens import TemplateCounter
from recbole_hnlm.options.chat import SpendingOptions, TransformersOptions

logger = logging.getLogger(__name__)
_BATCHES_SORTED = 16


class TransformersBackend(CachedBackend):
    """A causal language model with a chat template; prompts are batched by length.

    JSON schemas are part of the cache's key but do not bind the model; whoever asks reads the answer with care.
    """

    def __init__(
        self,
        generator: ChatGenerator,
        options: TransformersOptions,
        revision: str,
        cache_dir: str | Path,
        spending: SpendingOptions | None = None,
    ) -> None:
        """Put a loaded model behind a cache; :func:`build_transformers_backend` loads one.

        Args:
            generator: The model and its tokenizer.
            options: Which model it is and how it generates.
            revision: Commit or checksum of its weights.
            cache_dir: Folder of the kept answers.
            spending: A budget of requests, and prices if power has one.
        """
        decoding = {"temperature": options.temperature, "quantization": options.chat_quantization}
        if options.temperature > 0:
            decoding["seed"] = options.seed
        model = Model(options.chat_model, revision, decoding, thinking_tokens=options.thinking_tokens)
        counter = TemplateCounter(generator.tokenizer)
        super().__init__(model, ReplyCache(cache_dir), lambda: counter, spending or SpendingOptions())
        self._generator = generator
        self._batch_size = options.chat_batch_size

    def _open_session(self, summary: RunSummary, budget: Budget) -> TransformersSession:
        return TransformersSession(self._generator, self._batch_size, self._keep)


class TransformersSession:
    """Gathers some batches' worth of prompts, sorts them by length and generates batch by batch."""

    def __init__(self, generator: ChatGenerator, batch_size: int, keep: Keep) -> None:
        """A session without prompts."""
        self._generator = generator
        self._batch_size = batch_size
        self._keep = keep
        self._jobs: list[tuple[Job, list[int]]] = []
        self._gathering = True

    @property
    def has_room(self) -> bool:
        """Whether prompts are being gathered; while they are generated none is taken."""
        return self._gathering and len(self._jobs) < self._batch_size * _BATCHES_SORTED

    @property
    def in_flight(self) -> int:
        """Prompts gathered and not answered."""
        return len(self._jobs)

    def submit(self, job: Job) -> None:
        """Take a prompt."""
        self._jobs.append((job, self._generator.tokens(job.request)))

    def collect(self) -> Done:
        """The answers of the next batch, the longest prompts first: if they fit into memory all do."""
        if self._gathering:
            self._jobs.sort(key=lambda job: (len(job[1]), job[0].request.max_tokens))
        batch = self._jobs[-self._batch_size :]
        del self._jobs[-self._batch_size :]
        self._gathering = not self._jobs
        done = list(zip([job for job, _ in batch], self._generator.answers(batch), strict=True))
        self._keep(done)
        return done

    def close(self) -> Done:
        """Drop the prompts that were not answered."""
        self._jobs.clear()
        return []


def build_transformers_backend(
    options: TransformersOptions, cache_dir: str | Path, spending: SpendingOptions | None = None, device: str = "cpu"
) -> TransformersBackend:
    """Load a chat model, in bfloat16 on a GPU and float32 on a CPU, and put it behind a cache.

    Args:
        options: Which model, and how it generates.
        cache_dir: Folder of the kept answers.
        spending: A budget of requests.
        device: Torch device, e.g. ``cpu`` or ``cuda:0``.

    Raises:
        ImportError: If bitsandbytes is asked for and not installed.
        FileNotFoundError: If the model is neither a folder with weights nor on a hub that can be reached.
        ValueError: If the tokenizer has no chat template.
    """
    if options.chat_quantization == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        raise ImportError("llm_chat_quantization=nf4 needs bitsandbytes; pip install bitsandbytes")
    folder = Path(options.chat_model)
    if folder.is_dir():
        weights.check_weights(folder)
        model, tokenizer = _load(options, device, local=True)
        revision = weights.fingerprint(folder)
    else:
        model, tokenizer = _from_hub(options, lambda local: _load(options, device, local))
        revision = str(getattr(model.config, "_commit_hash", None) or options.chat_revision)
    logger.info("chat model %s (%s), %s on %s", options.chat_model, revision, model.dtype, device)
    generator = ChatGenerator(model, tokenizer, options.temperature, options.seed)
    return TransformersBackend(generator, options, revision, cache_dir, spending)


def _load(options: TransformersOptions, device: str, local: bool) -> tuple[Any, Any]:
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    precision = torch.bfloat16 if device.startswith("cuda") else torch.float32
    named = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    more: dict[str, Any] = {named: precision}
    if options.chat_quantization == "nf4":
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=precision,
        )
    where = {"revision": options.chat_revision or None, "local_files_only": local}
    tokenizer = AutoTokenizer.from_pretrained(options.chat_model, **where)
    model = AutoModelForCausalLM.from_pretrained(options.chat_model, device_map={"": device}, **where, **more)
    return model, tokenizer


def _from_hub(options: TransformersOptions, load: Callable[[bool], tuple[Any, Any]]) -> tuple[Any, Any]:
    """Load from the hub's local cache, or from the hub if that answers within seconds."""
    try:
        return load(True)
    except OSError as error:
        logger.debug("%s is not in the local cache: %s", options.chat_model, error)
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if not weights.is_reachable(endpoint):
        raise FileNotFoundError(
            f"llm_chat_model={options.chat_model!r} is no folder, not in the local cache, and {endpoint} does not "
            "answer; name a folder with the model's files"
        )
    try:
        return load(False)
    except OSError as error:
        raise FileNotFoundError(
            f"llm_chat_model={options.chat_model!r} could not be loaded from {endpoint} ({error}); check the name"
        ) from error
