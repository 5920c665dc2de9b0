"""What is tuned in a row and within which bounds: ``properties/compare/spaces.yaml``, or a plan's own."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from recbole.utils import ModelType

from recbole_hnlm.config import packaged_defaults

Point = dict[str, Any]
_OF_OPTIMIZERS = ("learning_rate", "weight_decay")
L2 = "l2"
"""Stands for ``reg_weight`` where the model has one, else for the optimizer's ``weight_decay``."""


@dataclass(frozen=True)
class Knob:
    """One tuned setting: a range of numbers, or a list of choices.

    Attributes:
        low: Least value of a range.
        high: Greatest value of a range.
        log: Whether the range is searched on a logarithmic scale.
        choices: The values to choose from, instead of a range.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    @classmethod
    def read(cls, key: str, given: Any) -> Knob:
        """A knob as YAML gives it: ``{low: .., high: .., log: true}``, ``{choices: [..]}`` or a bare list.

        Raises:
            ValueError: If it is neither, or its bounds do not make a range.
        """
        if isinstance(given, (list, tuple)):
            given = {"choices": given}
        if not isinstance(given, Mapping) or not set(given) <= {"low", "high", "log", "choices"}:
            raise ValueError(
                f"space of {key} is {given!r}; write {{low: .., high: .., log: true}} or a list of choices"
            )
        if "choices" in given:
            if len(given) > 1 or not isinstance(given["choices"], (list, tuple)) or not given["choices"]:
                raise ValueError(f"space of {key} is {given!r}; choices are a list of at least one value, alone")
            return cls(choices=tuple(given["choices"]))
        if any(isinstance(given.get(bound), bool) for bound in ("low", "high")):
            raise ValueError(f"space of {key} is {given!r}; low and high are two numbers")
        if not isinstance(given.get("log", False), bool):
            raise ValueError(f"space of {key} is {given!r}; log is true or false")
        try:
            knob = cls(float(given["low"]), float(given["high"]), given.get("log", False))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"space of {key} is {given!r}; low and high are two numbers") from error
        if not (math.isfinite(knob.low) and knob.low < knob.high < math.inf) or (knob.log and knob.low <= 0):
            raise ValueError(f"space of {key} is {given!r}; low must be below high, and above 0 with log")
        return knob

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the space."""
        if self.choices:
            return value in self.choices
        return isinstance(value, (int, float)) and self.low <= value <= self.high

    def values(self) -> tuple[Any, ...]:
        """Values of the space that a run must be able to take: every choice, or both bounds and one between."""
        return self.choices or (self.low, in_digits(self.low + (self.high - self.low) / math.pi), self.high)

    def described(self) -> dict[str, Any]:
        """The knob as YAML would give it."""
        if self.choices:
            return {"choices": list(self.choices)}
        return {"low": self.low, "high": self.high, "log": self.log}


Space = Mapping[str, Knob]


def read_space(given: Mapping[str, Any] | None) -> dict[str, Knob]:
    """Knobs by the key that they set.

    Raises:
        ValueError: On a knob that makes no sense.
    """
    if given is not None and not isinstance(given, Mapping):
        raise ValueError(f"space is {given!r}; write a mapping of settings to choices or bounds")
    return {str(key): Knob.read(str(key), knob) for key, knob in (given or {}).items()}


@cache
def packaged_rows() -> dict[str, dict[str, Any]]:
    """The rows and spaces that come with the package, by section: ``shared`` and one section a kind of row."""
    return packaged_defaults("compare/spaces.yaml")


@cache
def _packaged_knobs() -> frozenset[tuple[str, Knob]]:
    """Every setting with a space of the package's."""
    sections = packaged_rows()
    told = [sections["shared"], *sections["model"].values()]
    for name, entries in sections.items():
        if name not in ("shared", "model", "weight_decay"):
            told += [entry["space"] for entry in entries.values() if entry and "space" in entry]
    return frozenset((key, knob) for space in told for key, knob in read_space(space).items())


def is_packaged(key: str, knob: Knob) -> bool:
    """Whether the package tunes a setting so, and its values need no trial."""
    return (key, knob) in _packaged_knobs()


def resolved_for(config: Any, space: Space, fixed: Collection[str]) -> Space:
    """A space without what is fixed, with ``l2`` under the name that the model reads, and without an optimizer's
    settings where none trains the model.

    Args:
        config: The configuration of a run.
        space: The space of a row.
        fixed: Settings that are not tuned.
    """
    resolved = dict(space)
    if L2 in resolved:
        knob = resolved.pop(L2)
        if config["reg_weight"] is not None:
            resolved["reg_weight"] = resolved.get("reg_weight", knob)
        else:
            resolved.update(read_space({"weight_decay": packaged_rows()["weight_decay"]}))
    unread = _OF_OPTIMIZERS if config["MODEL_TYPE"] is ModelType.TRADITIONAL else ()
    return {key: knob for key, knob in resolved.items() if key not in fixed and key not in unread}


def in_digits(value: float) -> float:
    """A number in three significant digits, so that a tuned point can be read and typed."""
    return float(f"{value:.3g}")
