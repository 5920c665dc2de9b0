"""BERT encoders without padding: the tokens of many texts lie end to end, and only attention sees where a text ends.

A padded batch costs what its longest text costs. Here every matrix product runs over real tokens only, a batch holds
as many texts as fit a budget of tokens (so that it stays in the processor's cache), and attention runs once per group
of texts of the same length, which needs no mask. Same weights, same function as sentence-transformers.

Legend: n texts, L tokens of a text, T tokens of a batch, S width of the vectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from recbole_hnlm.llm.weights import pooling_of

_BUDGET = {torch.float32: 1024, torch.bfloat16: 2048}
"""Tokens of a batch. Of 512 to 4096, tried on one core, float32 lost only at 4096 and bfloat16 only below 2048."""
_PROBES = ("", "A Red Stapler, 3 inches", "words " * 40, "words " * 40)
_TOLERANCE = 1e-5

Affine = tuple[Tensor, Tensor]
"""Weight and bias."""


@dataclass(frozen=True)
class _Layer:
    """Weights of one transformer layer; queries, keys and values in one matrix."""

    qkv: Affine
    attended: Affine
    attended_norm: Affine
    up: Affine
    down: Affine
    norm: Affine


def why_not_packed(model: Any) -> str | None:
    """Why a ``SentenceTransformer`` cannot be packed, or None where it can.

    Packed are BERT models (MiniLM, BGE, E5, GTE) with mean or first-token pooling, with or without normalisation.
    """
    parts = [type(module).__name__ for module in model]
    bert: Any = getattr(model[0], "auto_model", None)
    if type(bert).__name__ != "BertModel":
        return f"{type(bert).__name__} is not a BertModel"
    if parts not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return f"its modules are {parts}"
    if pooling_of(model) not in ("mean", "cls"):
        return f"it pools by {pooling_of(model)!r}"
    if getattr(model, "default_prompt_name", None) is not None:
        return "it puts a prompt before every text"
    config = bert.config
    if config.hidden_act != "gelu" or config.is_decoder or getattr(config, "add_cross_attention", False):
        return "it is no plain encoder with gelu"
    if getattr(config, "position_embedding_type", "absolute") != "absolute":
        return "its positions are relative"
    return None


class PackedBert:
    """The weights of a BERT model, and what turns lists of token ids into vectors."""

    def __init__(self, model: Any, dtype: torch.dtype = torch.float32) -> None:
        """Take the weights of a ``SentenceTransformer`` that :func:`why_not_packed` has nothing against."""
        bert = model[0].auto_model
        self.width = int(bert.config.hidden_size)
        self._dtype = dtype
        self._heads = int(bert.config.num_attention_heads)
        self._eps = float(bert.config.layer_norm_eps)
        self._first_token = pooling_of(model) == "cls"
        self._normalise = len(list(model)) == 3
        embeddings = bert.embeddings
        self._words = self._cast(embeddings.word_embeddings.weight)
        positions = embeddings.position_embeddings.weight + embeddings.token_type_embeddings.weight[0]
        self._positions = self._cast(positions)
        self._embedding_norm = self._affine(embeddings.LayerNorm)
        self._layers = [self._layer(layer) for layer in bert.encoder.layer]

    @torch.inference_mode()
    def encode_tokens(self, tokens: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Vectors of texts given as token ids, shape ``(n, S)``, float32.

        Which texts share a batch follows from the lengths and the order of ``tokens`` alone.
        """
        vectors = torch.empty(len(tokens), self.width)
        for batch in token_batches([len(ids) for ids in tokens], _BUDGET[self._dtype]):
            vectors[batch] = self._forward([tokens[place] for place in batch]).cpu()
        return vectors.numpy()

    def _forward(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Vectors of one batch, shape ``(n, S)``; texts of the same length must be neighbours."""
        groups = [(len(list(same)), length) for length, same in groupby(texts, key=len)]
        sizes = [count * length for count, length in groups]
        device = self._words.device
        ids = torch.tensor([token for text in texts for token in text], device=device)  # (T,)
        places = torch.cat([torch.arange(length).repeat(count) for count, length in groups]).to(device)
        states = self._norm(self._words[ids] + self._positions[places], self._embedding_norm)  # (T, S)
        for layer in self._layers:
            mixed = self._attention(functional.linear(states, *layer.qkv), groups, sizes)
            states = self._norm(functional.linear(mixed, *layer.attended).add_(states), layer.attended_norm)
            inner = functional.gelu(functional.linear(states, *layer.up))
            states = self._norm(functional.linear(inner, *layer.down).add_(states), layer.norm)
        pooled = [self._pool(part.view(*group, -1)) for part, group in zip(states.split(sizes), groups, strict=True)]
        vectors = torch.cat(pooled)
        return functional.normalize(vectors, dim=1) if self._normalise else vectors

    def _attention(self, qkv: Tensor, groups: Sequence[tuple[int, int]], sizes: Sequence[int]) -> Tensor:
        """Each text attends to itself: ``(T, 3S)`` in, ``(T, S)`` out."""
        mixed = []
        for part, (count, length) in zip(qkv.split(sizes), groups, strict=True):
            query, key, value = part.view(count, length, 3, self._heads, -1).permute(2, 0, 3, 1, 4)
            heads = functional.scaled_dot_product_attention(query, key, value)  # (n, heads, L, S / heads)
            mixed.append(heads.transpose(1, 2).reshape(count * length, self.width))
        return torch.cat(mixed) if len(mixed) > 1 else mixed[0]

    def _pool(self, states: Tensor) -> Tensor:
        return states[:, 0].float() if self._first_token else states.float().mean(dim=1)

    def _norm(self, states: Tensor, affine: Affine) -> Tensor:
        return functional.layer_norm(states, (self.width,), *affine, self._eps)

    def _layer(self, layer: Any) -> _Layer:
        attention = layer.attention.self
        parts = [self._affine(module) for module in (attention.query, attention.key, attention.value)]
        return _Layer(
            qkv=(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
            attended=self._affine(layer.attention.output.dense),
            attended_norm=self._affine(layer.attention.output.LayerNorm),
            up=self._affine(layer.intermediate.dense),
            down=self._affine(layer.output.dense),
            norm=self._affine(layer.output.LayerNorm),
        )

    def _affine(self, module: Any) -> Affine:
        return self._cast(module.weight), self._cast(module.bias)

    def _cast(self, weight: Tensor) -> Tensor:
        return weight.detach().to(self._dtype)


class PackedModel:
    """Texts in, vectors out: the tokenizer of a ``SentenceTransformer`` and its weights, packed."""

    def __init__(self, model: Any, precision: str = "float32") -> None:
        """Take over ``model``; a few texts are encoded both ways to be sure that the function is the same.

        Raises:
            ValueError: If the model cannot be packed, or its vectors would differ.
        """
        reason = why_not_packed(model)
        if reason is None:
            self._tokenizer, self._longest = model.tokenizer, int(model.max_seq_length)
            self._bert = PackedBert(model)
            reason = self._difference(model)
        if reason is not None:
            raise ValueError(
                f"llm_encoder_backend=packed does not fit this encoder: {reason}; "
                "use llm_encoder_backend=sentence-transformers"
            )
        if precision == "bfloat16":
            self._bert = PackedBert(model, torch.bfloat16)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of ``texts``, shape ``(n, S)``, in their order."""
        tokens = self._tokenizer(
            list(texts),
            truncation=True,
            max_length=self._longest,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        return self._bert.encode_tokens(tokens)

    def _difference(self, model: Any) -> str | None:
        theirs = model.encode(list(_PROBES), convert_to_numpy=True, show_progress_bar=False)
        ours = self.encode(_PROBES)
        if ours.shape != theirs.shape:
            return f"packed vectors have the width {ours.shape[1]}, sentence-transformers gives {theirs.shape[1]}"
        if np.allclose(ours, theirs, atol=_TOLERANCE * max(1.0, float(np.abs(theirs).max())), rtol=0):
            return None
        return f"packed vectors are off by {np.abs(ours - theirs).max():.1e}"


def token_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Places of texts in batches of at most ``budget`` tokens, longest first; a longer text is a batch of its own."""
    batch: list[int] = []
    tokens = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        if batch and tokens + lengths[place] > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(place)
        tokens += lengths[place]
    if batch:
        yield batch
