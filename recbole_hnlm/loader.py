"""A training loader that hands out positive pairs and leaves the negatives to the model's device."""

from __future__ import annotations

from typing import Any

from recbole.data.dataloader import TrainDataLoader
from recbole.utils import InputType

from recbole_hnlm.run_options import RunOptions


class PairLoader(TrainDataLoader):
    """RecBole's training loader without its sampler: same shuffling, same seed, same meaning of ``train_batch_size``.

    As in RecBole the batch size counts rows, so a batch holds ``train_batch_size / K`` pairs for pairwise models and
    ``train_batch_size / (K + 1)`` for pointwise ones, whose positives are rows of their own.

    Args:
        config: RecBole's configuration, with ``train_neg_sample_args`` switched off.
        dataset: The training split.
        run: The run's options, for the negatives per pair.
        shuffle: Whether pairs are shuffled before every epoch.
    """

    def __init__(self, config: Any, dataset: Any, run: RunOptions, shuffle: bool) -> None:
        pointwise = config["MODEL_INPUT_TYPE"] is InputType.POINTWISE
        self._rows_per_pair = run.negatives + (1 if pointwise else 0)
        super().__init__(config, dataset, None, shuffle=shuffle)

    def _init_batch_size_and_step(self) -> None:
        pairs = max(self.config["train_batch_size"] // self._rows_per_pair, 1)
        self.step = pairs
        self.set_batch_size(pairs * self._rows_per_pair)


def training_loader(config: Any, recbole_loader: Any, run: RunOptions | None) -> Any:
    """The loader a run trains from: RecBole's own where RecBole draws the negatives, else a :class:`PairLoader`."""
    if run is None or run.sampler_type is None:
        return recbole_loader
    return PairLoader(config, recbole_loader._dataset, run, shuffle=config["shuffle"])
