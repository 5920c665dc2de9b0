"""Options of the ranking losses that need no clever sampler: sampled softmax, BSL, PSL, DirectAU.

Keys carry the prefix ``ranking_loss_``. A loss is one dataclass here, with the class attribute ``spares``, and one line
in :data:`RANKING_LOSS_OPTIONS`; one class, in a file of its own, and one line in ``models/ranking_losses.py``; and what
``compare`` tunes, if anything, in ``properties/compare/spaces.yaml``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from recbole_hnlm.options.parsing import nearest, option_keys, parse_options

RANKING_KEY = "ranking_loss"
RANKING_PREFIX = "ranking_loss_"
OWN_LOSS = "base"
"""The model's own ranking loss, unchanged."""
_LEAST_OF_PAIRWISE = 0.015


def _above_zero(options: Any, *names: str) -> None:
    for name in names:
        if not 0 < getattr(options, name) < math.inf:
            raise ValueError(f"{RANKING_PREFIX}{name}={getattr(options, name)} must be above 0, and finite")


@dataclass(frozen=True)
class SoftmaxLossOptions:
    """Sampled softmax over cosines (Wu et al., TOIS'24), and what BSL and PSL share with it."""

    spares: ClassVar[bool] = True
    """Whether the loss reads the weights of ``hnlm_sparing``."""

    temperature: float = 0.2
    """Divisor of the cosines of the negatives, and of all of them in sampled softmax; above 0. The papers' grids run
    from .04 to .25."""
    negatives: int = 800
    """Uniform items that all pairs of a batch share as negatives, at least 1; where the catalogue has no more, every
    item counts once."""

    def __post_init__(self) -> None:
        _above_zero(self, "temperature", "negatives")


@dataclass(frozen=True)
class BilateralLossOptions(SoftmaxLossOptions):
    """Bilateral softmax, BSL (Wu et al., ICDE'24)."""

    positive_temperature: float = 0.2
    """Temperature over the positives that a user has in the batch, above 0. The smaller it is, the less a positive
    counts that scores below the user's others; a large one weighs them alike, as softmax does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _above_zero(self, "positive_temperature")


@dataclass(frozen=True)
class PairwiseSoftmaxLossOptions(SoftmaxLossOptions):
    """Pairwise softmax, PSL (Yang et al., NeurIPS'24)."""

    temperature: float = 0.1
    """Divisor of the logarithm of the activation, at least .015, below which its powers leave float32. Differences are
    halved to lie in [-1, 1], so .1 here bends as .2 does in softmax."""
    activation: Literal["tanh", "atan", "relu"] = "tanh"
    """What takes the exponential's place: ``tanh(d) + 1``, ``atan(d) + 1`` or ``max(d + 1, 0)``; tanh is the paper's
    first."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.temperature < _LEAST_OF_PAIRWISE:
            raise ValueError(
                f"{RANKING_PREFIX}temperature={self.temperature} must be at least {_LEAST_OF_PAIRWISE} in psl"
            )


@dataclass(frozen=True)
class DirectAULossOptions:
    """Alignment and uniformity, DirectAU (Wang et al., KDD'22)."""

    spares: ClassVar[bool] = False

    gamma: float = 1.0
    """Weight of uniformity beside alignment, at least 0; the paper's grid runs from .2 to 10."""

    def __post_init__(self) -> None:
        if not 0 <= self.gamma < math.inf:
            raise ValueError(f"{RANKING_PREFIX}gamma={self.gamma} must be at least 0, and finite")


RANKING_LOSS_OPTIONS: dict[str, type[Any]] = {
    "sampled_softmax": SoftmaxLossOptions,
    "bsl": BilateralLossOptions,
    "psl": PairwiseSoftmaxLossOptions,
    "directau": DirectAULossOptions,
}


@dataclass(frozen=True)
class RankingRun:
    """The ranking loss of a run.

    Attributes:
        name: Its name in the configuration.
        options: Its own options, an instance of the dataclass of that name.
    """

    name: str
    options: Any


def parse_ranking(values: Mapping[str, Any]) -> RankingRun | None:
    """The ranking loss that takes the place of the model's own; None for ``ranking_loss: base`` or without the key.

    Raises:
        ValueError: If the name is unknown, naming the nearest, or a value is out of its range.
        TypeError: If a value has the wrong type.
    """
    name = values.get(RANKING_KEY, OWN_LOSS)
    if name == OWN_LOSS:
        return None
    options = RANKING_LOSS_OPTIONS.get(name) if isinstance(name, str) else None
    if options is None:
        choices = [OWN_LOSS, *RANKING_LOSS_OPTIONS]
        raise ValueError(f"{RANKING_KEY}={name!r} is not one of {choices}{nearest(str(name), choices)}")
    return RankingRun(name, parse_options(options, RANKING_PREFIX, values))


def ranking_keys(name: Any) -> tuple[set[str], dict[str, str]]:
    """Keys with an effect under the ranking loss ``name``, and those without, mapped to the reason."""
    homes: dict[str, list[str]] = {}
    for loss, options in RANKING_LOSS_OPTIONS.items():
        for key in option_keys(options, RANKING_PREFIX):
            homes.setdefault(key, []).append(loss)
    known = {key for key, losses in homes.items() if name in losses}
    reasons = {
        key: f"it belongs to {RANKING_KEY}={' | '.join(losses)}, this run uses {name}"
        for key, losses in homes.items()
        if key not in known
    }
    return known | {RANKING_KEY}, reasons
