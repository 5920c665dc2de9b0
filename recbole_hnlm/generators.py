"""Generators of a group of processes: no two ranks draw the same, before and after a checkpoint is read."""

from __future__ import annotations

import torch
from torch import Tensor

_APART = 1_000_003


def seed_of_rank(seed: int, rank: int) -> int:
    """The seed of one process of a group; that of rank 0 is ``seed`` itself."""
    return seed + rank * _APART


def restore(generator: torch.Generator, state: Tensor, rank: int) -> None:
    """Let a generator go on from a state that rank 0 has written.

    Rank 0 draws what an unbroken run would; every other rank goes on from there on draws of its own.

    Args:
        generator: The generator of this process.
        state: A state of the same kind of device, wherever it lies.
        rank: Rank of this process in its group.
    """
    generator.set_state(state.cpu())
    if rank:
        drawn = torch.randint(1 << 62, (), generator=generator, device=generator.device)
        generator.manual_seed(seed_of_rank(int(drawn), rank))
