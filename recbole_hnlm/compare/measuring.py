"""What rows must share to stand in one table: how a dataset is read and split, and what is measured on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from recbole.utils.argument_list import dataset_arguments

_METRICS = ("topk", "metrics", "valid_metric", "masked_filename", "repeatable")
_NAMED_APART = ("seed", "model", "dataset")


def shaping(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings among ``values`` that say what is read of a dataset and how it is split."""
    return {key: value for key, value in values.items() if key in ("eval_args", *dataset_arguments)}


def measuring(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those, and what is measured."""
    return {**shaping(values), **{key: value for key, value in values.items() if key in _METRICS}}


def evaluation(config: Any) -> dict[str, Any]:
    """How a run splits and ranks, with what RecBole takes for the kind of model where nobody says it."""
    return {"eval_args": config["eval_args"], "repeatable": bool(config["repeatable"])}


def refuse_apart(space: Iterable[str]) -> None:
    """Refuse a space over what rows must share, or over what a comparison names in another place.

    Raises:
        ValueError: Naming the settings.
    """
    apart = sorted(key for key in space if key in _NAMED_APART or measuring({key: None}))
    if apart:
        raise ValueError(f"space: {', '.join(apart)} is the same in all rows of a table, no row can tune it; remove it")
