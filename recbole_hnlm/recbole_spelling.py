"""RecBole's own way of naming a sampler, ``train_neg_sample_args``, in the words of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from recbole_hnlm.options import SAMPLER_KEY
from recbole_hnlm.run_options import base_sampler_of
from recbole_hnlm.run_options.checks import NO_SAMPLER, RECBOLE_SAMPLER

NEGATIVE_ARGS = "train_neg_sample_args"
_INNER_KEYS = ("distribution", "sample_num", "alpha", "dynamic", "candidate_num")
_OURS = {"sample_num": "neg_sampler_num", "candidate_num": "neg_sampler_candidates"}
_OURS_OF_POPULARITY = {**_OURS, "alpha": "neg_sampler_power"}
_RECBOLE_DISTRIBUTIONS = ("uniform", "popularity", None, "None", "none")


def later_of_two(values: dict[str, Any], layers: Sequence[Mapping[str, Any]]) -> list[str]:
    """Leave, of a ``neg_sampler`` and a ``train_neg_sample_args`` that disagree, the one that was given last, in place.

    Args:
        values: What the layers come to, one over the other.
        layers: What counts less first.

    Returns:
        The names of what was removed: ``train_neg_sample_args``, or nothing to tell of.
    """
    if not _disagree(values):
        return []
    given = ([key in layer for layer in layers][::-1] for key in (NEGATIVE_ARGS, SAMPLER_KEY))
    of_args, of_sampler = (-places.index(True) for places in given)  # 0 of the last layer
    if of_args > of_sampler:
        del values[SAMPLER_KEY]
    elif of_args < of_sampler:
        del values[NEGATIVE_ARGS]
        return [NEGATIVE_ARGS]
    return []


def _disagree(values: Mapping[str, Any]) -> bool:
    """Whether the two spellings ask for different samplers; RecBole's ``uniform`` gives way to any."""
    args, sampler = values.get(NEGATIVE_ARGS), values.get(SAMPLER_KEY)
    if not isinstance(args, Mapping):
        return False
    distribution = args.get("distribution", "uniform")
    if distribution in _RECBOLE_DISTRIBUTIONS:
        return distribution == "popularity" and sampler != "popularity" and not _drawn_by_recbole(values)
    return sampler not in (None, distribution)


def _drawn_by_recbole(values: Mapping[str, Any]) -> bool:
    return values.get(SAMPLER_KEY) in (None, NO_SAMPLER) or base_sampler_of(values) == RECBOLE_SAMPLER


def translate_recbole_spelling(values: dict[str, Any]) -> None:
    """Turn ``train_neg_sample_args: {distribution: dns, sample_num: 1, candidate_num: 32}`` into our keys, in place.

    Under a sampler of ours RecBole's ``uniform`` gives way to it and ``sample_num`` keeps its meaning; whatever says
    the opposite of our keys, or has no meaning to our samplers, is refused.

    Raises:
        ValueError: If the two spellings disagree, or a value would be dropped.
    """
    args = values.get(NEGATIVE_ARGS)
    if not isinstance(args, Mapping):  # see check_recbole_values
        return
    distribution = args.get("distribution", "uniform")
    theirs = distribution in _RECBOLE_DISTRIBUTIONS
    sampler = values.get(SAMPLER_KEY)
    if theirs and _drawn_by_recbole(values):
        return
    if _disagree(values) and theirs:
        raise ValueError(
            f"neg_sampler={sampler!r} draws its own way, and train_neg_sample_args asks for {distribution}; set "
            "neg_sampler: popularity, or neg_sampler: recbole for RecBole's own, or remove train_neg_sample_args"
        )
    if _disagree(values):
        raise ValueError(f"neg_sampler={sampler!r} and train_neg_sample_args {distribution=} disagree; keep one")
    unknown = sorted(set(args) - set(_INNER_KEYS))
    if unknown:
        raise ValueError(f"train_neg_sample_args has {unknown}, which nothing reads; its keys are {list(_INNER_KEYS)}")
    values.setdefault(SAMPLER_KEY, distribution)
    ours = _OURS_OF_POPULARITY if distribution == "popularity" == values[SAMPLER_KEY] else _OURS
    nothing = {"dynamic": False, "candidate_num": 0, **({} if "alpha" in ours else {"alpha": 1.0})}
    told = {
        key: value for key, value in args.items() if key != "distribution" and value not in (None, nothing.get(key))
    }
    if dropped := [key for key in told if key not in ours]:
        raise ValueError(
            f"train_neg_sample_args {dropped} mean nothing to neg_sampler={values[SAMPLER_KEY]!r}; remove them"
        )
    for name, value in told.items():
        if values.setdefault(ours[name], value) != value:
            raise ValueError(
                f"{ours[name]}={values[ours[name]]} and train_neg_sample_args {name}={value} disagree; keep one"
            )
    del values[NEGATIVE_ARGS]
