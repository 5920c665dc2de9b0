"""Which of RecBole's models train on sampled negatives, told from their code rather than from a list of names."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import Any

from recbole.utils import InputType, ModelType

_NEGATIVE_FIELDS = {InputType.PAIRWISE: "NEG_ITEM_ID", InputType.POINTWISE: "LABEL"}


def _names_in(code: CodeType) -> set[str]:
    names = set(code.co_names)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            names |= _names_in(constant)
    return names


def _names_in_loss(model_class: type) -> set[str]:
    """Names that ``calculate_loss`` reads, those of the parents' included where it calls theirs."""
    names: set[str] = set()
    for parent in model_class.__mro__:
        loss: Any = vars(parent).get("calculate_loss")
        if loss is None:
            continue
        code = getattr(inspect.unwrap(loss), "__code__", None)
        own = _names_in(code) if code is not None else set()
        names |= own
        if "calculate_loss" not in own:
            break
    return names


def refusal(model_class: type) -> str | None:
    """Why a model class cannot take a negative sampler, or None where it can.

    A model trains on sampled negatives when ``calculate_loss`` reads the negative item (pairwise) or the label
    (pointwise) of a batch; autoencoders, neighbourhood and closed-form models read neither.
    """
    model_class = getattr(model_class, "hnlm_base", model_class)  # a wrapped class is asked about its base
    name = model_class.__name__
    model_type = inspect.getattr_static(model_class, "type", None)
    if model_type is not ModelType.GENERAL:
        if model_type is ModelType.TRADITIONAL:
            return f"{name} has no gradient steps, so it samples no negatives"
        return (
            f"{name} is a {getattr(model_type, 'name', model_type)} model; only RecBole's general models are supported"
        )
    field = _NEGATIVE_FIELDS.get(getattr(model_class, "input_type", None))
    if field is None:
        return f"{name} reads whole user rows, so it samples no negatives"
    if field not in _names_in_loss(model_class):
        return f"{name} reads no sampled negatives in its loss"
    return None


def refuse_unsupported(model_class: type, sampler: str) -> None:
    """Raise where a sampler is asked of a model that would never use it.

    Raises:
        ValueError: Naming the model, the reason and the remedy.
    """
    reason = refusal(model_class)
    if reason is not None:
        raise ValueError(f"{reason}; run it with neg_sampler: none instead of {sampler!r}")
