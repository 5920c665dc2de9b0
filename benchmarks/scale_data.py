"""What the parts of ``scale.py`` share: the data as models see them, and two ways to take the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from recbole.data.interaction import Interaction

BATCH = 2048
Measured = dict[str, float]


class Data:
    """The part of a RecBole dataset that models and loaders ask for, over the generator's pairs; no text is parsed."""

    uid_field, iid_field = "user_id", "item_id"
    user_feat = item_feat = None

    def __init__(self, folder: Path) -> None:
        users, items = (torch.from_numpy(np.load(folder / f"{side}.npy")).long() for side in ("users", "items"))
        self.user_num, self.item_num = (int(count) for count in np.load(folder / "counts.npy"))
        self.inter_feat = Interaction({self.uid_field: users, self.iid_field: items})
        self.inter_num = len(self.inter_feat)
        self.folder = folder

    def num(self, field: str) -> int:
        """Ids of a field."""
        return self.user_num if field == self.uid_field else self.item_num

    def inter_matrix(self, form: str = "coo") -> sp.coo_matrix:
        """As RecBole makes it, double precision and all."""
        pairs = self.inter_feat[self.uid_field], self.inter_feat[self.iid_field]
        return sp.coo_matrix((np.ones(self.inter_num), pairs), shape=(self.user_num, self.item_num))

    def __len__(self) -> int:
        return self.inter_num

    def __getitem__(self, index: Any) -> Interaction:
        return self.inter_feat[index]

    @property
    def field2id_token(self) -> dict[str, Any]:
        """Tokens by id, of eight characters, sorted."""
        counts = {self.uid_field: self.user_num, self.iid_field: self.item_num}
        return {name: np.array([f"{name[0]}{number:07d}" for number in range(n)]) for name, n in counts.items()}

    def batches(self, count: int, seed: int = 1) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Random training pairs in ``count`` batches."""
        at = torch.from_numpy(np.random.default_rng(seed).integers(0, self.inter_num, (count, BATCH)))
        users, items = self.inter_feat[self.uid_field], self.inter_feat[self.iid_field]
        return [(users[index], items[index]) for index in at]


def once(work: Callable[[], object]) -> Measured:
    """Seconds of something that a run does once: the fastest of up to three times, as far as they are short."""
    taken: list[float] = []
    while len(taken) < 3 and sum(taken) < 4:
        started = time.perf_counter()
        work()
        taken.append(time.perf_counter() - started)
    return {"seconds": min(taken), "steps": len(taken)}


def per_step(step: Callable[[int], object], steps: int, least: int = 5, budget: float = 8.0) -> Measured:
    """Seconds of a step: the tenth percentile of at most ``steps`` steps, as whatever else the machine does only slows
    them down; at least ``least`` steps, whatever they take, and the first is left out.
    """
    step(0)
    taken: list[float] = []
    while len(taken) < steps - 1 and (len(taken) < least or sum(taken) < budget):
        started = time.perf_counter()
        step(len(taken) + 1)
        taken.append(time.perf_counter() - started)
    return {"seconds": float(np.quantile(taken, 0.1)), "steps": len(taken)}
