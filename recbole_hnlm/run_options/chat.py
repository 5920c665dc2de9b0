"""What one run asks of a chat model: which one, with which options. Parsed from the flat configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.chat import BatchOptions, OpenAIOptions, SpendingOptions, Spent, TransformersOptions
from recbole_hnlm.options.parsing import option_keys, parse_options
from recbole_hnlm.options.text import GroundingOptions, TextOptions

_PREFIX = LLMOptions.PREFIX
_OF_BACKEND: dict[str, tuple[type, ...]] = {
    "template": (),
    "openai": (OpenAIOptions, SpendingOptions, TextOptions, GroundingOptions),
    "openai-batch": (OpenAIOptions, SpendingOptions, BatchOptions, TextOptions, GroundingOptions),
    "transformers": (TransformersOptions, SpendingOptions, TextOptions, GroundingOptions),
}
_PROFILE_KEYS = ("domain", "prompts", "item_words", "user_words", "reviews", "review_words", "history_words")
_OF_REFERENCE = ("llm_teacher_model", "llm_teacher_epochs", "llm_teacher_candidates")
_OF_TEACHER = (*_OF_REFERENCE, "llm_teacher_draws", "llm_teacher_draw_candidates")


@dataclass(frozen=True)
class ChatRun:
    """Options of the text pipeline in one run.

    Attributes:
        backend: Who writes: ``openai``, ``openai-batch`` or ``transformers``.
        model: Options of that model.
        spending: Prices and budget.
        batch: Options of batch jobs; without effect elsewhere.
        text: What the model is asked for.
        grounding: How texts become catalogue items.
        spent: What the run has spent so far; the budget holds for all that it asks, whatever asks it.
    """

    backend: str
    model: OpenAIOptions | TransformersOptions
    spending: SpendingOptions
    batch: BatchOptions
    text: TextOptions
    grounding: GroundingOptions
    spent: Spent = field(default_factory=Spent, compare=False)


def parse_chat(values: Mapping[str, Any], backend: str, profiles_alone: bool = False) -> ChatRun | None:
    """The chat model's options, or None where profiles come from templates.

    Args:
        values: The merged flat configuration.
        backend: ``llm_backend``.
        profiles_alone: Whether a comparator or hybrid prompts run, which read no hard negatives of a chat model; none
            are asked for then by default.

    Raises:
        ValueError: If no model is named, or a value is wrong.
        TypeError: If a value does not have its type.
    """
    if backend == "template":
        return None
    if not values.get("llm_chat_model"):
        example = "llm_chat_model=gpt-4o-mini" if backend.startswith("openai") else "llm_chat_model=FOLDER"
        raise ValueError(f"llm_backend={backend} needs the name of a model, e.g. {example}")
    if profiles_alone:
        values = {"llm_pair_grouping": "none", **values}
    model: OpenAIOptions | TransformersOptions
    if backend == "transformers":
        model = parse_options(TransformersOptions, _PREFIX, values)
    else:
        model = parse_options(OpenAIOptions, _PREFIX, values)
    return ChatRun(
        backend,
        model,
        parse_options(SpendingOptions, _PREFIX, values),
        parse_options(BatchOptions, _PREFIX, values),
        parse_options(TextOptions, _PREFIX, values),
        parse_options(GroundingOptions, _PREFIX, values),
    )


def chat_keys(backend: str) -> set[str]:
    """Configuration keys that mean something beside ``llm_backend``; all for one that is refused elsewhere."""
    groups = [_OF_BACKEND[backend]] if backend in _OF_BACKEND else _OF_BACKEND.values()
    return {key for group in groups for options in group for key in option_keys(options, _PREFIX)}


def useless_keys(backend: str, negatives: str, with_reference: bool = False) -> dict[str, str]:
    """Keys of the offline part without effect beside ``llm_backend``, mapped to the reason.

    Args:
        backend: ``llm_backend``.
        negatives: ``llm_negatives``.
        with_reference: Whether the teacher is trained as a reference model, whoever names the negatives.
    """
    reasons: dict[str, str] = {}
    for other in _OF_BACKEND:
        for key in chat_keys(other) - chat_keys(backend):
            reasons.setdefault(key, f"it belongs to llm_backend={other}, this run has {backend}")
    if backend != "template" and negatives == "hybrid":
        written = {_PREFIX + key for key in _PROFILE_KEYS}
        asked = {key for options in (TextOptions, GroundingOptions) for key in option_keys(options, _PREFIX)}
        reason = f"llm_negatives=hybrid takes the profiles of llm_backend={backend} and nothing else"
        reasons.update(dict.fromkeys(asked - written, reason))
    elif backend != "template":
        idle = [key for key in _OF_TEACHER if not (with_reference and key in _OF_REFERENCE)]
        reasons.update(dict.fromkeys(idle, f"llm_backend={backend} names negatives without a teacher"))
    reasons.pop("llm_seed", None)  # every backend has one
    return reasons
