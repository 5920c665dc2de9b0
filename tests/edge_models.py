"""A model in the shape of RecBole-GNN's: not in RecBole's package, its graph an edge list."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.init import xavier_uniform_initialization
from recbole.model.loss import BPRLoss, EmbLoss
from recbole.utils import InputType

NOT_A_CLASS = "a string"


class EdgeLightGCN(GeneralRecommender):
    input_type = InputType.PAIRWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        pairs = dataset.inter_matrix(form="coo")
        ends = np.stack([pairs.row, pairs.col + self.n_users])
        self.edge_index = torch.from_numpy(np.concatenate([ends, ends[::-1]], axis=1)).long().to(self.device)
        degrees = torch.bincount(self.edge_index[0], minlength=self.n_users + self.n_items) + 1e-7
        self.edge_weight = degrees[self.edge_index].float().rsqrt().prod(dim=0)
        self.n_layers, self.reg_weight = config["n_layers"], config["reg_weight"]
        self.user_embedding = torch.nn.Embedding(self.n_users, config["embedding_size"])
        self.item_embedding = torch.nn.Embedding(self.n_items, config["embedding_size"])
        self.mf_loss, self.reg_loss = BPRLoss(), EmbLoss()
        self.apply(xavier_uniform_initialization)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.cat([self.user_embedding.weight, self.item_embedding.weight])
        tables = [rows]
        for _ in range(self.n_layers):
            sent = rows[self.edge_index[1]] * self.edge_weight.unsqueeze(1)
            rows = torch.zeros_like(rows).index_add(0, self.edge_index[0], sent)
            tables.append(rows)
        users, items = torch.stack(tables).mean(dim=0).split([self.n_users, self.n_items])
        return users, items

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        user, item, other = (interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        users, items = self.forward()
        scores = [(users[user] * items[ids]).sum(dim=1) for ids in (item, other)]
        rows = self.user_embedding(user), self.item_embedding(item), self.item_embedding(other)
        return self.mf_loss(*scores) + self.reg_weight * self.reg_loss(*rows)

    def predict(self, interaction: Any) -> torch.Tensor:
        users, items = self.forward()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(dim=1)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        users, items = self.forward()
        return (users[interaction[self.USER_ID]] @ items.T).view(-1)


class NoisyEdgeLightGCN(EdgeLightGCN):
    """As RecBole-GNN's SimGCL: a loss that leaves the negatives to its parent's."""

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        return super().calculate_loss(interaction) + 0.0
