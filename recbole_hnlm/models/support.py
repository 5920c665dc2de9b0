"""Which of RecBole's models train on sampled negatives, told from their code rather than from a list of names."""

from __future__ import annotations

import inspect
from types import CodeType
from typing import Any

from recbole.model.abstract_recommender import GeneralRecommender
from recbole.utils import InputType, ModelType

_NEGATIVE_FIELDS = {
    InputType.PAIRWISE: ("NEG_ITEM_ID", "neg_item_id"),
    InputType.POINTWISE: ("LABEL", "label"),
}
"""How a loss asks a batch for what only sampling brings: by RecBole's attribute, or by the column's usual name."""


def _names_in(code: CodeType) -> set[str]:
    """Names and texts that a function holds, and those inside it."""
    names, constants = set(code.co_names), list(code.co_consts)
    for constant in constants:
        if isinstance(constant, CodeType):
            names |= _names_in(constant)
        elif isinstance(constant, str):
            names.add(constant)
        elif isinstance(constant, tuple | frozenset):
            constants.extend(constant)
    return names


def _names_in_method(model_class: type, method: str) -> set[str]:
    """What a method reads, and the parents' where it calls theirs."""
    names: set[str] = set()
    for parent in model_class.__mro__:
        function: Any = vars(parent).get(method)
        if function is None:
            continue
        code = getattr(inspect.unwrap(function), "__code__", None)
        own = _names_in(code) if code is not None else set()
        names |= own
        if method not in own:
            break
    return names


def _names_in_loss(model_class: type) -> set[str]:
    """What ``calculate_loss`` reads, and the model's own methods that it leads to."""
    names: set[str] = set()
    asked, seen = {"calculate_loss"}, set()
    while asked:
        seen |= asked
        led_to = set().union(*(_names_in_method(model_class, method) for method in asked))
        names |= led_to
        asked = {name for name in led_to - seen if inspect.isfunction(inspect.getattr_static(model_class, name, None))}
        asked -= set(dir(GeneralRecommender)) - {"forward"}
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
    fields = _NEGATIVE_FIELDS.get(getattr(model_class, "input_type", None))
    if fields is None:
        return f"{name} reads whole user rows, so it samples no negatives"
    if _names_in_loss(model_class).isdisjoint(fields):
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
