"""Paths of items in a tree, and how much of them two items share (the dual trees of DTL-NS, arXiv 2602.18249).

Shapes: ``I`` items including padding, ``L`` levels of the tree.
"""

from __future__ import annotations

import torch
from torch import Tensor

_BITS = 63  # of an int64, sign left out
_SMALL_BITS = 32  # from here on an int32 is too small


class TreeCodes:
    """Every item's path from the root, packed into one integer, so that a batch needs one look-up an item.

    Args:
        codes: Child taken at each level, int8, shape ``(I, L)``; -1 from where the path has ended. An item without a
            path, such as the padding, is like no other.

    Raises:
        ValueError: If the shape is wrong, a path goes on after its end, or the tree is too deep to be packed.
    """

    def __init__(self, codes: Tensor) -> None:
        if codes.dim() != 2:
            raise ValueError(f"codes have the shape {tuple(codes.shape)}; expected (items, levels)")
        present = codes >= 0
        if bool((present[:, 1:] & ~present[:, :-1]).any()):
            raise ValueError("a path goes on after its end; codes should be -1 from there on")
        self.levels = int(codes.shape[1])
        self._bits = int(codes.max().item() + 1 if codes.numel() else 0).bit_length()
        if self.levels * self._bits > _BITS:
            raise ValueError(f"a tree of {self.levels} levels with {self._bits} bits each does not fit {_BITS} bits")
        self._lengths = present.sum(dim=1).to(torch.int8)
        packed = torch.zeros(codes.shape[0], dtype=torch.int64, device=codes.device)
        for level in range(self.levels):
            packed = (packed << self._bits) | (codes[:, level].long() + 1)
        self._packed = packed.int() if self.levels * self._bits < _SMALL_BITS else packed

    def __len__(self) -> int:
        """``I``."""
        return self._packed.numel()

    def to(self, device: torch.device) -> TreeCodes:
        """Move the paths to ``device``; returns itself."""
        self._packed, self._lengths = self._packed.to(device), self._lengths.to(device)
        return self

    def shared(self, first: Tensor, second: Tensor) -> Tensor:
        """Length of the common prefix over that of the shorter path, 0 where an item has no path.

        Args:
            first: Item ids of any shape.
            second: Item ids of a shape that broadcasts with it.

        Returns:
            Shares in [0, 1], float32, of the broadcast shape.
        """
        differing = _taken(self._packed, first) ^ _taken(self._packed, second)
        shorter = torch.minimum(_taken(self._lengths, first), _taken(self._lengths, second))
        common = torch.zeros(differing.shape, dtype=torch.int8, device=differing.device)
        for level in range(self.levels):  # the prefix up to a level is the same where no higher bit differs
            common += differing < (1 << (self._bits * (self.levels - 1 - level)))
        return torch.minimum(common, shorter) / shorter.clamp_min(1)


def _taken(column: Tensor, ids: Tensor) -> Tensor:
    """``column[ids]``, in a third of the time."""
    return column.index_select(0, ids.reshape(-1)).view(ids.shape)
