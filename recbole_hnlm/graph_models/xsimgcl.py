"""XSimGCL (Yu et al., TKDE'23): one noisy propagation both ranks and is contrasted with one of its own layers.

Shapes: ``N`` nodes (users, then items), ``D`` width of a row, ``L`` layers.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import LightGCN
from torch import Tensor

from recbole_hnlm.graph_models.noise import contrast
from recbole_hnlm.graph_models.simgcl import SimGCL


class XSimGCL(SimGCL):
    """SimGCL with a third of its propagations: noise enters the ranking itself while training, never in evaluation.

    Options: those of SimGCL, and ``layer_cl``, the layer (from 1) whose rows are contrasted with the final ones;
    defaults in ``properties/model/XSimGCL.yaml``.

    Args:
        config: RecBole's configuration.
        dataset: The training split.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.layer = int(config["layer_cl"])
        if not 1 <= self.layer <= self.n_layers:
            raise ValueError(f"layer_cl={self.layer} should lie in 1..{self.n_layers} (n_layers); lower it")
        self._contrasted: tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None = None

    def forward(self) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Users and items after the mean of hops 1 to L, noisy while training."""
        rows, hops = self.get_ego_embeddings(), []
        for _ in range(self.n_layers):
            rows = torch.sparse.mm(self.norm_adj_matrix, rows)
            rows = self.noise(rows) if self.training else rows
            hops.append(rows)
        sizes = [self.n_users, self.n_items]
        users, items = torch.stack(hops).mean(dim=0).split(sizes)
        layer_users, layer_items = hops[self.layer - 1].split(sizes)
        self._contrasted = ((users, items), (layer_users, layer_items))
        return users, items

    def __getstate__(self) -> dict[str, Any]:
        """Without the rows of the last pass: torch copies no tensor that another was computed from."""
        return {**self.__dict__, "_contrasted": None}

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """LightGCN's loss on the noisy tables, and their contrast with the layer's."""
        loss: Tensor = LightGCN.calculate_loss(self, interaction)
        assert self._contrasted is not None
        (final, layer), self._contrasted = self._contrasted, None
        ids = interaction[self.USER_ID], interaction[self.ITEM_ID]
        terms = [contrast(a, b, nodes, self.temperature) for a, b, nodes in zip(final, layer, ids, strict=True)]
        return loss + self.contrast_weight * (terms[0] + terms[1])
