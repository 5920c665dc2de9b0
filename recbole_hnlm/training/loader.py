"""A training loader that hands out positive pairs and leaves the negatives to the model's device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from recbole.data.dataloader import TrainDataLoader
from recbole.data.interaction import Interaction
from recbole.utils import InputType
from torch import Tensor
from torch.utils.data import RandomSampler, SequentialSampler

from recbole_hnlm.models.ahead import look_ahead
from recbole_hnlm.models.batches import CANDIDATES, VECTOR_ROWS
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.training.pair_batch import PairBatch

BLOCK_CANDIDATES = 1 << 16
"""Candidates drawn at once where a batch needs fewer: half a megabyte of ids."""
_HALF_RANGE = 1 << 31


class BatchSource(Protocol):
    """Who works ahead on batches: the head of the model under training."""

    candidates_per_pair: int
    """Candidates of one pair; 0 where drawing needs the model."""

    def draw_candidates(self, users: Tensor) -> Tensor:
        """Candidates of pairs, ``(N,) -> (N, candidates_per_pair)``."""

    def vector_rows(self, users: Tensor, positives: Tensor) -> Tensor | None:
        """Where the vectors of pairs are, ``(N,), (N,) -> (N, K)``, or None."""

    def tell(self, rows: Tensor) -> bool:
        """Have the vectors of a later batch read; whether that is done."""


class PairLoader(TrainDataLoader):
    """RecBole's training loader without its sampler: same order of pairs, same meaning of ``train_batch_size``.

    As in RecBole the batch size counts rows, so a batch holds ``train_batch_size / K`` pairs for pairwise models and
    ``train_batch_size / (K + 1)`` for pointwise ones, whose positives are rows of their own. Pairs are gathered, and
    candidates drawn, for several batches at once; the shuffled order is that of RecBole's loader with the same
    ``seed``, epoch by epoch. Of several training processes each takes its share of the pairs, padded from the start to
    equal shares, and all together hold ``train_batch_size`` rows at a time; this too is RecBole's meaning.

    Args:
        config: RecBole's configuration, with ``train_neg_sample_args`` switched off.
        dataset: The training split.
        run: The run's options, for the negatives per pair.
        shuffle: Whether pairs are shuffled before every epoch.
    """

    def __init__(self, config: Any, dataset: Any, run: RunOptions, shuffle: bool) -> None:
        pointwise = config["MODEL_INPUT_TYPE"] is InputType.POINTWISE
        self._rows_per_pair = run.negatives + (1 if pointwise else 0)
        self._lacking = config["LABEL_FIELD"] if pointwise else config["NEG_PREFIX"] + config["ITEM_ID_FIELD"]
        self._source: BatchSource | None = None
        self._vector_rows: Tensor | None = None
        super().__init__(config, dataset, None, shuffle=shuffle)

    def _init_batch_size_and_step(self) -> None:
        pairs = max(self.config["train_batch_size"] // self._rows_per_pair, 1)
        self.step = pairs
        self.set_batch_size(pairs * self._rows_per_pair)

    def draw_from(self, source: BatchSource) -> None:
        """Let ``source`` draw candidates and look vectors up for several batches at once from the next epoch on."""
        if source is not self._source:
            feat = self._dataset.inter_feat
            rows = source.vector_rows(feat[self.uid_field], feat[self.iid_field])
            small = rows is not None and (not rows.numel() or int(rows.max()) < _HALF_RANGE)
            self._vector_rows = rows.int() if rows is not None and small else rows
        self._source = source

    def __iter__(self) -> Iterator[Any]:
        if self.num_workers:
            return (PairBatch.of(batch, self._lacking) for batch in super().__iter__())
        return self._blocks_of_batches()

    def _blocks_of_batches(self) -> Iterator[Any]:
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)  # torch's loader draws a base seed first
        order = _order_of(self.sampler)
        per_pair = self._source.candidates_per_pair if self._source is not None else 0
        block = self.step * max(1, BLOCK_CANDIDATES // (self.step * max(1, per_pair)))
        candidates = torch.empty(0)
        for pairs, first in look_ahead(self._batches(order, block), self._tell):
            batch = pairs[first : first + self.step]
            if per_pair and self._source is not None:  # drawn in the order of steps, as no step may depend on the next
                if first == 0:
                    candidates = self._source.draw_candidates(pairs[self.uid_field])
                batch.update(Interaction({CANDIDATES: candidates[first : first + self.step]}))
            yield PairBatch.of(self.transform(self._dataset, batch), self._lacking)

    def _batches(self, order: Tensor, block: int) -> Iterator[tuple[Interaction, int]]:
        """Blocks of pairs, and where each batch begins in its block."""
        for start in range(0, order.numel(), block):
            pairs = self._gathered(order[start : start + block])
            for first in range(0, len(pairs), self.step):
                yield pairs, first

    def _tell(self, batch: tuple[Interaction, int]) -> bool:
        pairs, first = batch
        if self._source is None or self._vector_rows is None:
            return False
        return self._source.tell(pairs[VECTOR_ROWS][first : first + self.step])

    def _gathered(self, places: Tensor) -> Interaction:
        """Pairs with the columns of their user and item; as RecBole's dataset, which makes a list of every index."""
        dataset = self._dataset
        columns = {name: column[places] for name, column in dataset.inter_feat.interaction.items()}
        for field, feat in ((self.uid_field, dataset.user_feat), (self.iid_field, dataset.item_feat)):
            if feat is not None:
                columns.update({name: column[columns[field]] for name, column in feat.interaction.items()})
        if self._vector_rows is not None:
            columns[VECTOR_ROWS] = self._vector_rows[places].long()
        return Interaction(columns)


def _order_of(sampler: Any) -> Tensor:
    """The indices that a sampler hands out: ``torch.tensor(list(sampler))``, for torch's own samplers without a list.

    torch's random sampler draws a second permutation for the rest of an epoch, empty here; it is drawn all the same, so
    that the generator goes on as in RecBole.
    """
    if type(sampler) is SequentialSampler:
        return torch.arange(len(sampler))
    whole = type(sampler) is RandomSampler and not sampler.replacement and sampler.generator is not None
    if whole and sampler.num_samples == len(sampler.data_source):
        order = torch.randperm(sampler.num_samples, generator=sampler.generator)
        torch.randperm(sampler.num_samples, generator=sampler.generator)
        return order
    return torch.tensor(list(sampler))


def training_loader(config: Any, loaders: tuple[Any, ...], run: RunOptions | None) -> Any:
    """The loader a run trains from: RecBole's own where RecBole draws the negatives, else a :class:`PairLoader`.

    Args:
        config: The run's configuration.
        loaders: RecBole's train, valid and test loaders.
        run: The run's options, None where nothing of ours takes part.
    """
    loader = loaders[0]
    if run is not None and run.sampler_type is not None:
        loader = PairLoader(config, loader._dataset, run, shuffle=config["shuffle"])
    if run is not None and run.hnlm is not None and run.hnlm.log_false_negatives:
        loader.held_out = tuple(held._dataset for held in loaders[1:] if held is not None)  # for the log alone
    return loader
