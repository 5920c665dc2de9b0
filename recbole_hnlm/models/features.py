"""Features of users and items, which RecBole's loader joins to the ids of a batch: also to ids that it never saw."""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from torch import Tensor

_READ_NONE = frozenset({"recbole", "recbole_gnn", "recbole_hnlm"})  # their general models; a join would cost every step


class SideFeatures:
    """Columns beside the ids, on the model's device; none for models that are known to read none.

    Args:
        users: Features of every user id, or None.
        items: Features of every item id, or None.
        names: Names of the user's and of the item's id in a batch.
        negative: What stands before the names of a negative's columns.
    """

    def __init__(self, users: Any, items: Any, names: tuple[str, str], negative: str) -> None:
        self._users = _columns(users, names[0])
        self._items = _columns(items, names[1])
        self._user_id, self._item_id = names
        self._negative = negative

    def of_items(self, ids: Tensor) -> dict[str, Tensor]:
        """Name of a column -> its values for items."""
        return {name: column[ids] for name, column in self._items.items()}

    def of_negatives(self, ids: Tensor) -> dict[str, Tensor]:
        """The same under the names that pairwise models read."""
        return {f"{self._negative}{name}": column for name, column in self.of_items(ids).items()}

    def batch(self, users: Tensor, items: Tensor) -> Interaction:
        """Pairs of ids with all their columns, as evaluation hands them to ``predict``."""
        told = {name: column[users] for name, column in self._users.items()}
        return Interaction({**told, **self.of_items(items), self._user_id: users, self._item_id: items})


def _columns(features: Any, own_id: str) -> dict[str, Tensor]:
    if features is None:
        return {}
    return {name: features[name] for name in features.columns if name != own_id}


def side_features(config: Any, dataset: Any, base: type) -> SideFeatures:
    """The features of a dataset for models of a class."""
    names, negative = (dataset.uid_field, dataset.iid_field), config["NEG_PREFIX"]
    if base.__module__.partition(".")[0] in _READ_NONE:
        return SideFeatures(None, None, names, negative)
    device = torch.device(config["device"])
    placed = [None if found is None else found.to(device) for found in (dataset.user_feat, dataset.item_feat)]
    return SideFeatures(placed[0], placed[1], names, negative)
