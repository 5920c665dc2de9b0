"""SimGCL (Yu et al., SIGIR'22): LightGCN with two views that differ by noise alone.

Shapes: ``N`` nodes (users, then items), ``D`` width of a row, ``L`` layers.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.data.interaction import Interaction
from recbole.model.general_recommender import LightGCN
from torch import Tensor

from recbole_hnlm.graph_models.noise import SignedNoise, checked_temperature, checked_weight, contrast


class SimGCL(LightGCN):
    """LightGCN without its zeroth hop, plus InfoNCE between two noisy propagations.

    As the authors' code, with two differences that are RecBole's: ``reg_weight`` weighs the norms of the batch's own
    embeddings, not of the propagated ones, and the contrast is a mean over the batch's distinct users and items.

    Options: ``lambda`` (weight of the contrast), ``eps`` (length of the noise), ``temperature``, ``n_layers``,
    ``embedding_size``, ``reg_weight``; defaults in ``properties/model/SimGCL.yaml``.

    Args:
        config: RecBole's configuration.
        dataset: The training split.
    """

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        if self.n_layers < 1:
            raise ValueError(f"n_layers={self.n_layers} leaves {type(self).__name__} nothing to average; set 1 or more")
        self.contrast_weight = checked_weight(config)
        self.temperature = checked_temperature(config)
        seed, device = int(config["seed"] or 0), torch.device(config["device"])
        self.noise = SignedNoise(float(config["eps"]), seed, device, rank=config["group_rank"] or 0)

    def forward(self, noisy: bool = False) -> tuple[Tensor, Tensor]:
        """Users and items after the mean of hops 1 to L; with ``noisy`` every hop is moved by fresh noise."""
        rows, hops = self.get_ego_embeddings(), []
        for _ in range(self.n_layers):
            rows = torch.sparse.mm(self.norm_adj_matrix, rows)
            rows = self.noise(rows) if noisy else rows
            hops.append(rows)
        users, items = torch.stack(hops).mean(dim=0).split([self.n_users, self.n_items])
        return users, items

    def calculate_loss(self, interaction: Interaction) -> Tensor:
        """LightGCN's loss, and the contrast of two noisy views of the batch's users and positives."""
        loss: Tensor = super().calculate_loss(interaction)
        one, other = self.forward(True), self.forward(True)
        ids = interaction[self.USER_ID], interaction[self.ITEM_ID]
        terms = [contrast(a, b, nodes, self.temperature) for a, b, nodes in zip(one, other, ids, strict=True)]
        return loss + self.contrast_weight * (terms[0] + terms[1])
