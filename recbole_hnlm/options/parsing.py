"""Options out of RecBole's flat configuration: types, choices, and keys that mean nothing."""

from __future__ import annotations

import dataclasses
import difflib
import math
import numbers
import os
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar

from recbole_hnlm.options import HNLMOptions, LLMOptions
from recbole_hnlm.options.comparator import COMPARATOR_PREFIX, KEPT_KEYS

OptionsT = TypeVar("OptionsT")


def option_keys(options: type, prefix: str) -> tuple[str, ...]:
    """Configuration keys of an options dataclass, in the order of its fields."""
    return tuple(prefix + field.name for field in dataclasses.fields(options))


def parse_options(options: type[OptionsT], prefix: str, values: Mapping[str, Any]) -> OptionsT:
    """Build ``options`` from the keys of a flat configuration that carry ``prefix``.

    Args:
        options: A frozen dataclass whose fields are annotated.
        prefix: Prefix of its keys, e.g. ``"hnlm_"``.
        values: The configuration; keys without a field are ignored here (:func:`reject_unknown` looks at them).

    Returns:
        An instance with defaults where a key is absent.

    Raises:
        TypeError: If a value does not have its field's type.
        ValueError: If a value is not among a field's choices or fails the dataclass's own checks.
    """
    hints = typing.get_type_hints(options)
    given: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        key = prefix + field.name
        if key in values:
            given[field.name] = coerce(key, values[key], hints[field.name])
        elif field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(
                f"{key} has no value; give one, or a default in {options.__qualname__} or in the YAML of defaults"
            )
    return options(**given)


def coerce(key: str, value: Any, hint: Any) -> Any:
    """``value`` as its option has it.

    Raises:
        TypeError: If it does not have the option's type.
        ValueError: If it is not among the option's choices, or no finite number.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        inner = [arg for arg in typing.get_args(hint) if arg is not type(None)]
        return None if value is None or value == "None" else coerce(key, value, inner[0])
    if origin is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise ValueError(f"{key}={value!r} is not one of {list(choices)}{nearest(str(value), choices)}")
        return value
    if origin is tuple:
        items = [value] if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
            raise TypeError(f"{key}={value!r} should be a list of names, e.g. {key}=['title']")
        return tuple(items)
    if hint is str and isinstance(value, os.PathLike):
        return os.fspath(value)
    if hint is float and isinstance(value, numbers.Real) and not isinstance(value, bool):
        if not math.isfinite(value):
            raise ValueError(f"{key}={value} should be a finite number")
        return float(value)
    whole = isinstance(value, numbers.Integral) or (isinstance(value, float) and value.is_integer())
    if hint is int and whole and not isinstance(value, bool):  # searches hand over numpy integers and whole floats
        return int(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise TypeError(
            f"{key}={value!r} should be {hint.__name__}, got {type(value).__name__}; check the YAML's quoting"
        )
    return value


def nearest(word: str, choices: Iterable[str]) -> str:
    """The end of a message that names the choice most like ``word``, or nothing."""
    close = difflib.get_close_matches(word, [str(choice) for choice in choices], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


class UselessOption(ValueError):
    """An option that the run would not read.

    Attributes:
        key: The option.
    """

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


def reject_unknown(given: Iterable[str], known: Iterable[str], elsewhere: Mapping[str, str]) -> None:
    """Refuse keys that carry one of our prefixes, or nearly our whole name, and mean nothing in this run.

    Args:
        given: Keys that the user wrote (files, dictionary, command line).
        known: Keys of ours that have an effect in this run.
        elsewhere: Keys of ours without effect in this run, mapped to the reason.

    Raises:
        UselessOption: On a key without effect, with the reason.
        ValueError: On another one, with the nearest known one.
    """
    known = tuple(known)
    everything = (*known, *elsewhere)
    for key in given:
        if key in known:
            continue
        if key in elsewhere:
            raise UselessOption(f"{key} has no effect here: {elsewhere[key]}; remove it", key)
        prefixes = ("neg_sampler", "ranking_loss", HNLMOptions.PREFIX, LLMOptions.PREFIX, COMPARATOR_PREFIX)
        ours = key.startswith(prefixes)
        if ours and known:
            raise ValueError(f"unknown option {key!r}{nearest(key, everything)}")


def reject_misspelled(given: Iterable[str], recbole_keys: Iterable[str], ours: Iterable[str]) -> None:
    """Refuse keys that RecBole does not know and that are one slip away from one of ours.

    RecBole reads unknown keys as absent, so ``hnml_alpha`` would otherwise change nothing and say nothing.
    """
    recbole_keys = set(recbole_keys)
    ours = tuple(ours)
    for key in given:
        if key in recbole_keys or key in ours:
            continue
        close = difflib.get_close_matches(key, ours, n=1, cutoff=0.88)
        if close:
            raise ValueError(f"unknown option {key!r}; did you mean {close[0]!r}?")


def useless_hnlm_keys(options: HNLMOptions, guarded: bool = False) -> dict[str, str]:
    """Keys of the text part that change nothing beside the values of the others, mapped to the reason.

    Args:
        options: The text part's options.
        guarded: Whether items' text vectors judge candidates, whatever else they do.
    """
    useless: dict[str, str] = {}
    if options.comparator != "none":
        reason = f"hnlm_comparator={options.comparator} runs in place of our method"
        useless.update({key: reason for key in option_keys(HNLMOptions, HNLMOptions.PREFIX) if key not in KEPT_KEYS})
        if options.item_control != options.control:
            useless["hnlm_control"] = "a comparator reads no hard-negative vectors; use permuted or gaussian"
        return useless
    if options.preset != "anchored" and options.hard_alignment_weight:
        reason = f"hnlm_preset={options.preset} has Eq. 9 as its alignment, weighed by hnlm_alignment_weight"
        useless["hnlm_hard_alignment_weight"] = reason
    if options.init == "random":
        start = ("hnlm_init_scale", "hnlm_init_hops")
        useless.update(dict.fromkeys(start, "hnlm_init=random keeps the model's own start"))
    if not options.aligns:
        keys = ("hnlm_temperature", "hnlm_aligned_pairs", "hnlm_scale_free")
        useless.update(dict.fromkeys(keys, "there is no alignment to shape: its weight is 0"))
    if options.alpha == 0 and not options.aligns:
        useless["hnlm_projector_width"] = "nothing is projected: hnlm_alpha and the alignment weight are 0"
    if options.alpha == 0:
        keys = ("hnlm_match_norm", "hnlm_use", "hnlm_alpha_epochs")
        useless.update(dict.fromkeys(keys, "hnlm_alpha=0 brings no text into negatives"))
    anchored = options.preset == "anchored" and options.effective_alignment_weight > 0
    if not (guarded or anchored or options.sparing):
        useless["hnlm_user_text"] = "no alignment, sparing or guard reads a user's text"
    if not options.reads_pair_vectors:
        useless["hnlm_min_coverage"] = "this run reads no hard-negative vectors"
    if not (options.reads_text or guarded) or (
        options.item_control != options.control and not options.reads_pair_vectors
    ):
        useless["hnlm_control"] = "this run does not read the vectors that it changes"
    return useless
