"""Backends of chat models: servers of the OpenAI protocol, OpenAI's Batch API, and models on this machine."""

from recbole_hnlm.llm.backends.base import CachedBackend
from recbole_hnlm.llm.backends.openai_batch import OpenAIBatchBackend
from recbole_hnlm.llm.backends.openai_chat import OpenAIBackend
from recbole_hnlm.llm.backends.outcome import BudgetExceeded, RunStopped
from recbole_hnlm.llm.backends.reply_cache import ReplyCache
from recbole_hnlm.llm.backends.summary import RunSummary
from recbole_hnlm.llm.backends.transformers_chat import TransformersBackend, build_transformers_backend
from recbole_hnlm.options.chat import BatchOptions, OpenAIOptions, SpendingOptions, TransformersOptions

__all__ = [
    "BatchOptions",
    "BudgetExceeded",
    "CachedBackend",
    "OpenAIBackend",
    "OpenAIBatchBackend",
    "OpenAIOptions",
    "ReplyCache",
    "RunStopped",
    "RunSummary",
    "SpendingOptions",
    "TransformersBackend",
    "TransformersOptions",
    "build_transformers_backend",
]
