"""Values of RecBole's own settings that it would pass over, or fail on later without their name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recbole_hnlm.options.parsing import coerce, nearest

_NUMBERS: dict[str, type] = {
    **dict.fromkeys(("epochs", "train_batch_size", "eval_batch_size", "eval_step", "stopping_step", "seed"), int),
    **dict.fromkeys(("loss_decimal_place", "metric_decimal_place"), int),
    **dict.fromkeys(("learning_rate", "weight_decay"), float),
}
"""Settings of RecBole's that it compares with numbers, wherever that leads."""


_COUNTED = ("epochs", "train_batch_size", "eval_batch_size")
"""Those that it counts with."""
_LEARNERS = ("adam", "adamw", "sgd", "adagrad", "rmsprop", "sparse_adam")
_EVAL_KEYS = {
    "eval_args": ("split", "order", "group_by", "mode"),
    "mode": ("valid", "test"),
}
"""The mappings of ``eval_args`` -> their keys; RecBole passes over others."""


def check_recbole_values(values: Mapping[str, Any]) -> None:
    """Refuse values of RecBole's own settings that it would pass over, or fail on later without their name.

    Raises:
        TypeError: If one is no number, where RecBole needs a number, or no mapping.
        ValueError: If a batch is empty, ``eval_args`` has a key that nothing reads or a split by ratio other than three
            shares, a filter is no interval, an optimizer is none of RecBole's, or negatives are named in RecBole's
            place for a mapping.
    """
    for key, kind in _NUMBERS.items():
        if values.get(key) is None:
            continue
        number = coerce(key, values[key], kind)
        if key.endswith("batch_size") and number < 1:
            raise ValueError(f"{key}={number} should be at least 1")
        if key in _COUNTED and isinstance(values[key], float):
            raise TypeError(f"{key}={values[key]!r} should be a whole number, e.g. {number}")
    clipping = values.get("clip_grad_norm")
    if clipping and not isinstance(clipping, Mapping):
        raise TypeError(f"clip_grad_norm={clipping!r} should be a mapping, e.g. {{'max_norm': {clipping}}}")
    learner = values.get("learner")
    if learner is not None and str(learner).lower() not in _LEARNERS:
        raise ValueError(f"learner={learner!r} is none of {list(_LEARNERS)}{nearest(str(learner).lower(), _LEARNERS)}")
    _check_eval_args(values.get("eval_args"))
    _check_filters(values)
    negatives = values.get("train_neg_sample_args")
    if not isinstance(negatives, Mapping) and negatives not in (None, "None"):
        raise ValueError(
            f"train_neg_sample_args={negatives!r} should map RecBole's keys to values; neg_sampler names a sampler"
        )


def _check_eval_args(asked: Any) -> None:
    if not isinstance(asked, Mapping):
        return
    for name, known in _EVAL_KEYS.items():
        told = asked if name == "eval_args" else asked.get(name)
        for key in told if isinstance(told, Mapping) else ():
            if key not in known:
                place = name if name == "eval_args" else f"eval_args: {name}"
                raise ValueError(f"{place} has {key!r}, which nothing reads{nearest(str(key), known)}")
    how = asked.get("split")
    if isinstance(how, Mapping) and len(how) > 1:
        raise ValueError(f"eval_args: split: {dict(how)} should be either RS or LS; keep one")
    shares = how.get("RS") if isinstance(how, Mapping) else None
    numbers = isinstance(shares, (list, tuple)) and all(isinstance(share, int | float) for share in shares)
    if shares is not None and not (numbers and len(shares) == 3):
        raise ValueError(
            f"eval_args: split: RS: {shares!r} should be the shares of train, valid and test, e.g. [8,1,1]"
        )


def _check_filters(values: Mapping[str, Any]) -> None:
    """Refuse what RecBole would take for no filter at all: the dataset would be another one than it says."""
    asked = {key: values.get(key) for key in ("user_inter_num_interval", "item_inter_num_interval")}
    by_value = values.get("val_interval")
    for field, told in by_value.items() if isinstance(by_value, Mapping) else ():
        if not isinstance(told, (list, tuple)):  # which names tokens
            asked[f"val_interval of {field}"] = told
    for key, told in asked.items():
        parts = [] if told in (None, "None") else str(told).split(";")
        if not all(_is_interval(part.strip()) for part in parts):
            raise ValueError(f"{key}={told!r} is no interval, and RecBole would filter nothing; write e.g. '[5,inf)'")


def _is_interval(told: str) -> bool:
    """Whether RecBole reads it as bounds, the lower one first.

    >>> [_is_interval(told) for told in ("[4,inf)", "(0, 1]", ">=4", "4", "[4,]", "[5,4]")]
    [True, True, False, False, False, False]
    """
    if told[:1] not in ("[", "(") or told[-1:] not in ("]", ")"):
        return False
    try:
        low, high = map(float, told[1:-1].split(","))
    except ValueError:
        return False
    return low <= high and not math.isnan(low)
