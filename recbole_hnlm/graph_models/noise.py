"""What SimGCL and XSimGCL share: noise in place of graph augmentation, and the contrast of two noisy views.

Shapes: ``N`` nodes, ``n`` distinct nodes of a batch, ``D`` width of a row.
"""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.generators import restore, seed_of_rank

logger = logging.getLogger(__name__)
_NOISE_SEEDS = 4_256_233  # apart from the draws of samplers and loaders, which start at the run's seed


class SignedNoise(nn.Module):
    """Adds noise of length ``eps`` to every row, in the orthant of the row, from a generator of its own.

    The generator's state goes into checkpoints, so that a resumed run draws what an unbroken one would.

    Args:
        eps: Length of the noise, at least 0.
        seed: Seed of the draws.
        device: Where rows live.
        rank: Rank of this process in a group, so that no two draw the same.
    """

    def __init__(self, eps: float, seed: int, device: torch.device, rank: int = 0) -> None:
        super().__init__()
        if not 0 <= eps < math.inf:
            raise ValueError(f"eps={eps} is the length of the noise and must be finite, at least 0")
        self.eps = eps
        self._rank = rank
        self.generator = torch.Generator(device=device).manual_seed(seed_of_rank(seed + _NOISE_SEEDS, rank))

    def forward(self, rows: Tensor) -> Tensor:
        """The rows and their noise, ``(N, D) -> (N, D)``."""
        drawn = torch.rand(rows.shape, generator=self.generator, device=rows.device, dtype=rows.dtype)
        return rows + rows.sign() * functional.normalize(drawn, dim=-1) * self.eps

    def get_extra_state(self) -> Tensor:
        """The generator's state, a tensor, so that weights with it can be kept without pickle."""
        return self.generator.get_state()

    def set_extra_state(self, state: Tensor) -> None:
        """Go on where the state was taken, unless it is one of another kind of device, which has another length."""
        if state.numel() == self.generator.get_state().numel():
            restore(self.generator, state, self._rank)
        else:
            logger.warning("a checkpoint of another kind of device restores no noise on %s", self.generator.device.type)

    def __deepcopy__(self, memo: dict[int, Any]) -> SignedNoise:
        """One with a generator of its own in the same state; torch's cannot be copied."""
        copied = SignedNoise(self.eps, 0, self.generator.device, self._rank)
        copied.generator.set_state(self.generator.get_state())
        return copied


def contrast(one: Tensor, other: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """InfoNCE between two views of a batch's distinct nodes, the mean over them.

    Args:
        one: Rows of all nodes in one view, shape ``(N, D)``.
        other: Rows in the other view.
        ids: Nodes of the batch, repeated ones allowed.
        temperature: Divisor of the cosines.
    """
    nodes = torch.unique(ids)
    first, second = functional.normalize(one[nodes], dim=-1), functional.normalize(other[nodes], dim=-1)
    with torch.autocast(nodes.device.type, enabled=False):  # cosines over a small temperature
        cosines = first / temperature @ second.T
    return functional.cross_entropy(cosines, torch.arange(nodes.numel(), device=nodes.device))


def checked_temperature(config: Any) -> float:
    """``temperature`` of the configuration.

    Raises:
        ValueError: If it is not finite and above 0.
    """
    temperature = float(config["temperature"])
    if not 0 < temperature < math.inf:
        raise ValueError(f"temperature={temperature} divides cosines and must be finite, above 0")
    return temperature


def checked_weight(config: Any) -> float:
    """``lambda`` of the configuration.

    Raises:
        ValueError: If it is not a weight.
    """
    weight = float(config["lambda"])
    if not 0 <= weight < math.inf:
        raise ValueError(f"lambda={weight} weighs the contrast and must be finite, at least 0; 0 leaves it out")
    return weight
