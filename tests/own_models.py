"""Models as users write them: biases, other scores, other names, side features, helpers, parts that RecBole asks for
left out.
"""

from __future__ import annotations

from typing import Any

import torch
from recbole.model.abstract_recommender import GeneralRecommender
from recbole.model.general_recommender import BPR, LightGCN
from recbole.model.init import xavier_normal_initialization
from recbole.model.loss import BPRLoss
from recbole.utils import InputType


class Biased(GeneralRecommender):
    """Inner products and a bias an item that starts at 0."""

    input_type = InputType.PAIRWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.user_embedding = torch.nn.Embedding(self.n_users, config["embedding_size"])
        self.item_embedding = torch.nn.Embedding(self.n_items, config["embedding_size"])
        self.apply(xavier_normal_initialization)
        self.bias = torch.nn.Parameter(torch.zeros(self.n_items))
        self.loss = BPRLoss()

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return (self.user_embedding(users) * self.item_embedding(items)).sum(-1) + self.bias[items]

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users = interaction[self.USER_ID]
        scores = [self.forward(users, interaction[name]) for name in (self.ITEM_ID, self.NEG_ITEM_ID)]
        return self.loss(*scores)

    def predict(self, interaction: Any) -> torch.Tensor:
        return self.forward(interaction[self.USER_ID], interaction[self.ITEM_ID])

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        users = self.user_embedding(interaction[self.USER_ID])
        return (users @ self.item_embedding.weight.T + self.bias).view(-1)


class Columns(Biased):
    """Scores in a column of their own on the way to the loss."""

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users = interaction[self.USER_ID]
        scores = [self.forward(users, interaction[name]) for name in (self.ITEM_ID, self.NEG_ITEM_ID)]
        return self.loss(*(one.unsqueeze(1) for one in scores))


class Named(Biased):
    """A loss that is told its scores by name."""

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users = interaction[self.USER_ID]
        names = {"pos_score": self.ITEM_ID, "neg_score": self.NEG_ITEM_ID}
        return self.loss(**{name: self.forward(users, interaction[field]) for name, field in names.items()})


class Unused(Biased):
    """A BPRLoss that is never asked."""

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users = interaction[self.USER_ID]
        scores = [self.forward(users, interaction[name]) for name in (self.ITEM_ID, self.NEG_ITEM_ID)]
        return -torch.nn.functional.logsigmoid(scores[0] - scores[1]).mean()


class BiasTable(Biased):
    """The bias in an embedding whose name begins as that of the rows, and features that are not trained."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        seen = torch.randn(self.n_items, 6)
        self.item_looks = torch.nn.Embedding.from_pretrained(seen)
        self.item_bias = torch.nn.Embedding(self.n_items, 1)
        torch.nn.init.zeros_(self.item_bias.weight)
        self.taste = torch.nn.Linear(config["embedding_size"], 6)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        looks = (self.taste(self.user_embedding(users)) * self.item_looks(items)).sum(-1)
        return super().forward(users, items) + looks + self.item_bias(items).squeeze(-1)


class Distant(LightGCN):
    """LightGCN's tables, ranked by distance."""

    def ranked(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        tables = self.forward()
        return -(tables[0][users] - tables[1][items]).square().sum(-1)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users = interaction[self.USER_ID]
        scores = [self.ranked(users, interaction[name]) for name in (self.ITEM_ID, self.NEG_ITEM_ID)]
        return self.mf_loss(*scores)

    def predict(self, interaction: Any) -> torch.Tensor:
        return self.ranked(interaction[self.USER_ID], interaction[self.ITEM_ID])


class OtherNames(LightGCN):
    """LightGCN with the names that its authors' code has."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.embedding_user, self.embedding_item = self.user_embedding, self.item_embedding
        del self.user_embedding, self.item_embedding

    def get_ego_embeddings(self) -> torch.Tensor:
        return torch.cat([self.embedding_user.weight, self.embedding_item.weight])

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users, items = self.forward()
        user, item, other = (interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
        scores = [(users[user] * items[ids]).sum(-1) for ids in (item, other)]
        return self.mf_loss(*scores) + 1e-4 * self.embedding_item(other).square().mean()


class OneTable(OtherNames):
    """Users and items in one embedding: there is none of items."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        del self.embedding_user, self.embedding_item
        self.nodes = torch.nn.Embedding(self.n_users + self.n_items, config["embedding_size"])
        self.apply(xavier_normal_initialization)

    def get_ego_embeddings(self) -> torch.Tensor:
        return self.nodes.weight

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users, items = self.forward()
        user = users[interaction[self.USER_ID]]
        scores = [(user * items[interaction[name]]).sum(-1) for name in (self.ITEM_ID, self.NEG_ITEM_ID)]
        return self.mf_loss(*scores)


class Undivided(OneTable):
    """``forward`` returns all rows in one table."""

    def forward(self) -> torch.Tensor:  # type: ignore[override]
        return torch.cat(super().forward())

    def _sides(self) -> tuple[torch.Tensor, torch.Tensor]:
        users, items = self.forward().split([self.n_users, self.n_items])
        return users, items

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users, items = self._sides()
        user = users[interaction[self.USER_ID]]
        scores = [(user * items[interaction[name]]).sum(-1) for name in (self.ITEM_ID, self.NEG_ITEM_ID)]
        return self.mf_loss(*scores)

    def predict(self, interaction: Any) -> torch.Tensor:
        users, items = self._sides()
        return (users[interaction[self.USER_ID]] * items[interaction[self.ITEM_ID]]).sum(-1)


class Popular(LightGCN):
    """A loss that indexes a buffer of its own by the negatives."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.clicks = torch.ones(self.n_items)

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        return super().calculate_loss(interaction) * self.clicks[interaction[self.NEG_ITEM_ID]].mean()


class NoForward(BPR):
    """A model whose ``forward`` nobody wrote, and whose loss is in a method of its own."""

    forward = torch.nn.Module.forward

    def _ranking(self, interaction: Any) -> torch.Tensor:
        users = self.user_embedding(interaction[self.USER_ID])
        rows = [self.item_embedding(interaction[name]) for name in ("item_id", "neg_item_id")]
        return self.loss(*[(users * items).sum(-1) for items in rows])

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        return self._ranking(interaction)

    def predict(self, interaction: Any) -> torch.Tensor:
        users, items = interaction[self.USER_ID], interaction[self.ITEM_ID]
        return (self.user_embedding(users) * self.item_embedding(items)).sum(-1)

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        return (self.user_embedding(interaction[self.USER_ID]) @ self.item_embedding.weight.T).view(-1)


class Overflown(NoForward):
    """A model whose scores are a division by zero, as those of plain counts may be."""

    def full_sort_predict(self, interaction: Any) -> torch.Tensor:
        return super().full_sort_predict(interaction) * float("nan")

    def predict(self, interaction: Any) -> torch.Tensor:
        return super().predict(interaction) / 0


class FullSortOnly(NoForward):
    """Full evaluation asks for no ``predict``."""

    predict = GeneralRecommender.predict


class CachedFullSort(LightGCN):
    """The same for tables, which full evaluation keeps."""

    predict = GeneralRecommender.predict


class Forgetful(LightGCN):
    """Drops entries of its tables in evaluation, too."""

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        users, items = (torch.nn.functional.dropout(table, 0.2) for table in super().forward())
        return users, items


class Makers(Biased):
    """A bias a maker, which the batch tells of the positive, of the negative and of what is to be scored."""

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.makers = dataset.item_feat["maker"]
        self.of_maker = torch.nn.Parameter(torch.zeros(dataset.num("maker")))
        self.seen = 0

    def told(self, interaction: Any, item: str, maker: str) -> torch.Tensor:
        """What the batch says of an item's maker, which must be true."""
        assert torch.equal(interaction[maker], self.makers[interaction[item]])
        self.seen += len(interaction)
        return self.of_maker[interaction[maker]]

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        users, scores = interaction[self.USER_ID], []
        for item, maker in ((self.ITEM_ID, "maker"), (self.NEG_ITEM_ID, "neg_maker")):
            scores.append(self.forward(users, interaction[item]) + self.told(interaction, item, maker))
        return self.loss(*scores)

    def predict(self, interaction: Any) -> torch.Tensor:
        return super().predict(interaction) + self.told(interaction, self.ITEM_ID, "maker")


class MakersOfPoints(Makers):
    """The same for a loss over points."""

    input_type = InputType.POINTWISE

    def __init__(self, config: Any, dataset: Any) -> None:
        super().__init__(config, dataset)
        self.LABEL = config["LABEL_FIELD"]

    def calculate_loss(self, interaction: Any) -> torch.Tensor:
        return torch.nn.functional.binary_cross_entropy_with_logits(self.predict(interaction), interaction[self.LABEL])
