"""A language model that reads hybrid prompts: soft tokens in, one vector of unit length out.

Legend: n sequences, L tokens, D width of the recommender's embedding, H hidden width, S width of the language model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import TokenBatch

_TINY = 1e-6
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class SoftTokenProjector(nn.Module):
    """The MLP ``D -> H -> S`` that turns collaborative embeddings into input embeddings.

    Embeddings are standardised first by the tables' own mean and spread, since every recommender has its own scale.
    """

    centre: Tensor
    scale: Tensor
    mean: Tensor
    constant: Tensor

    def __init__(self, width: int, hidden: int, model_width: int) -> None:
        """A projector with random weights, from torch's global generator; :meth:`start` fits it to tables and model."""
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.out = nn.Linear(hidden, model_width)
        self.register_buffer("centre", torch.zeros(2, width))  # of users and of items
        self.register_buffer("scale", torch.ones(2, 1))
        self.register_buffer("mean", torch.zeros(2, model_width))  # soft tokens of users and items, once tuned
        self.register_buffer("constant", torch.tensor(False))  # whether every soft token is that mean

    @torch.no_grad()
    def start(self, pairs: PairTexts, words: Tensor) -> None:
        """Standardise by the tables of ``pairs``; put soft tokens among the word embeddings ``words``, ``(V, S)``."""
        self.standardise(pairs)
        words = words.float()
        self.out.bias.copy_(words.mean(dim=0))
        spread = words.std(dim=0).mean() / self.hidden.out_features**0.5
        self.out.weight.normal_(0.0, float(spread))

    @torch.no_grad()
    def standardise(self, pairs: PairTexts) -> None:
        """Take mean and spread from the tables of ``pairs``."""
        tables = ((pairs.user_vectors, pairs.user_of_pair), (pairs.item_vectors, pairs.item_of_pair))
        for row, (table, used) in enumerate(tables):
            rows: NDArray[np.float64] = table[np.unique(used)].astype(np.float64)
            self.centre[row] = torch.from_numpy(rows.mean(axis=0))
            self.scale[row] = max(float(rows.std()), _TINY)

    @torch.no_grad()
    def settle(self, pairs: PairTexts) -> None:
        """Keep the mean soft token of the users and items of ``pairs``, for a transfer."""
        tables = ((pairs.user_vectors, pairs.user_of_pair), (pairs.item_vectors, pairs.item_of_pair))
        for row, (table, used) in enumerate(tables):
            rows = torch.from_numpy(table[np.unique(used)].astype(np.float32)).to(self.centre.device)
            self.mean[row] = self(rows.unsqueeze(1).expand(-1, 2, -1))[:, row].float().mean(dim=0)

    def forward(self, vectors: Tensor) -> Tensor:
        """Input embeddings, shape ``(n, 2, S)``, of users' and items' embeddings, shape ``(n, 2, D)``."""
        standard = (vectors.float() - self.centre) / self.scale
        soft: Tensor = self.out(functional.gelu(self.hidden(standard)))
        return torch.where(self.constant, self.mean.to(soft.dtype), soft)


class HybridEncoder(nn.Module):
    """A base model, perhaps with LoRA, and a soft-token projector for each dataset."""

    def __init__(self, base: nn.Module, is_decoder: bool, precision: str = "float32") -> None:
        """Wrap a loaded model.

        Args:
            base: A model of transformers' ``AutoModel``, or a ``PeftModel`` around one.
            is_decoder: Whether the state at the closing token is read; otherwise the mean over all tokens is.
            precision: Type of its products.
        """
        super().__init__()
        self.base: Any = base
        self.soft_tokens = nn.ModuleDict()
        self.is_decoder = is_decoder
        self.blank = False
        """Whether soft tokens are zeros, to measure what they are worth."""
        self._dtype = _DTYPES[precision]

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        found: torch.device = self.words.device
        return found

    @property
    def words(self) -> Tensor:
        """The word embeddings, shape ``(V, S)``."""
        weight: Tensor = self.base.get_input_embeddings().weight
        return weight

    @property
    def width(self) -> int:
        """Width S of the vectors."""
        return int(self.base.config.hidden_size)

    def add_projector(self, name: str, projector: SoftTokenProjector) -> None:
        """Make soft tokens of dataset ``name`` by ``projector``."""
        self.soft_tokens[name] = projector.to(self.device)

    def projector(self, name: str) -> SoftTokenProjector:
        """The projector of dataset ``name``."""
        found = self.soft_tokens[name]
        assert isinstance(found, SoftTokenProjector)
        return found

    def forward(self, batch: TokenBatch) -> Tensor:
        """Vectors of unit length, shape ``(n, S)``, float32; the batch must be on the model's device."""
        positions = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        mask = positions < batch.lengths.unsqueeze(1)  # (n, L)
        with torch.autocast(batch.ids.device.type, self._dtype, enabled=self._dtype != torch.float32):
            embeddings = self.base.get_input_embeddings()(batch.ids)  # (n, L, S)
            if batch.source is not None:
                embeddings = self._with_soft_tokens(embeddings, batch)
            alone = {"use_cache": False} if self.is_decoder else {}  # nothing is generated token by token
            states = self.base(inputs_embeds=embeddings, attention_mask=mask.long(), **alone).last_hidden_state
        rows = torch.arange(len(batch.lengths), device=states.device)
        if self.is_decoder:
            pooled = states[rows, batch.lengths - 1].float()
        else:
            pooled = (states.float() * mask.unsqueeze(2)).sum(dim=1) / batch.lengths.unsqueeze(1)
        return functional.normalize(pooled, dim=1)

    def _with_soft_tokens(self, embeddings: Tensor, batch: TokenBatch) -> Tensor:
        assert batch.source is not None and batch.places is not None and batch.vectors is not None
        soft = self.projector(batch.source)(batch.vectors).to(embeddings.dtype)  # (n, 2, S)
        if self.blank:
            soft = torch.zeros_like(soft)
        rows = torch.arange(len(soft), device=soft.device).unsqueeze(1)
        return embeddings.index_put((rows, batch.places), soft)


@torch.inference_mode()
def encode(model: HybridEncoder, batch: TokenBatch) -> NDArray[np.float32]:
    """Vectors of a batch, as training would compute them without dropout, shape ``(n, S)``."""
    assert not model.training
    found: NDArray[np.float32] = model(batch.to(model.device)).cpu().numpy()
    return found
