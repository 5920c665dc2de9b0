"""RecBole's trainers with our scalars in their TensorBoard and their time and memory kept."""

from __future__ import annotations

import logging
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch

from recbole_hnlm.models.wrapper import run_of
from recbole_hnlm.training.groups import GroupMixin, GroupStart, checkpoint_name
from recbole_hnlm.training.loader import PairLoader
from recbole_hnlm.training.optimizers import by_rows, fused
from recbole_hnlm.training.processes import mean_over_ranks

logger = logging.getLogger(__name__)

_WATCHING: dict[type, type] = {}


class _WatchingMixin:
    """Writes the epoch means of the model's negatives and keeps the seconds of every epoch.

    ``curve`` has a row for every validation: epoch, seconds of training until then (validation left out), score.
    """

    saved_model_file: str

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        self.saved_model_file = checkpoint_name(config, self.saved_model_file)
        self.epoch_seconds: list[float] = []
        self._epoch = 0
        self.curve: list[tuple[int, float, float]] = []
        self.best_epoch: int | None = None
        self.negative_statistics: list[dict[str, float]] = []

    def _build_optimizer(self, **kwargs: Any) -> Any:
        optimizer = super()._build_optimizer(**kwargs)  # type: ignore[misc]
        run = run_of(self.config) if getattr(self.model, "hnlm", None) is not None else None  # type: ignore[attr-defined]
        if run is None or run.adam == "plain":
            return optimizer
        return fused(optimizer) if run.adam == "fused" else by_rows(optimizer)

    def fit(self, *args: Any, **kwargs: Any) -> Any:
        """RecBole's training, followed by what the guard of the negatives has refused."""
        result = super().fit(*args, **kwargs)  # type: ignore[misc]
        sampler = getattr(getattr(self.model, "hnlm", None), "sampler", None)  # type: ignore[attr-defined]
        if sampler is not None and sampler.guard is not None:
            logger.info("candidates refused in training\n%s", sampler.guard.table())
        return result

    def _train_epoch(self, train_data: Any, epoch_idx: int, *args: Any, **kwargs: Any) -> Any:
        head = getattr(self.model, "hnlm", None)  # type: ignore[attr-defined]
        if head is not None:
            head.epoch = epoch_idx
        if head is not None and isinstance(train_data, PairLoader):
            train_data.draw_from(head)
        if head is not None and hasattr(train_data, "held_out"):
            head.statistics.watch_held_out(train_data.held_out)
        self._epoch = epoch_idx
        started = time.perf_counter()
        result = super()._train_epoch(train_data, epoch_idx, *args, **kwargs)  # type: ignore[misc]
        self.epoch_seconds.append(time.perf_counter() - started)
        if head is not None:
            self.model.commit_rows()  # type: ignore[attr-defined]  # NCL clusters them before it trains on
        return result

    def _valid_epoch(self, *args: Any, **kwargs: Any) -> Any:
        score, result = super()._valid_epoch(*args, **kwargs)  # type: ignore[misc]
        self.curve.append((self._epoch, sum(self.epoch_seconds), float(score)))
        return score, result

    def _full_sort_batch_eval(self, batched_data: Any) -> Any:
        return _with_scores(super()._full_sort_batch_eval(batched_data), self.model)  # type: ignore[misc, attr-defined]

    def _neg_sample_batch_eval(self, batched_data: Any) -> Any:
        return _with_scores(super()._neg_sample_batch_eval(batched_data), self.model)  # type: ignore[misc, attr-defined]

    def _add_train_loss_to_tensorboard(self, epoch_idx: int, losses: Any, tag: str = "Loss/Train") -> None:
        super()._add_train_loss_to_tensorboard(epoch_idx, losses, tag)  # type: ignore[misc]
        head = getattr(self.model, "hnlm", None)  # type: ignore[attr-defined]
        if head is None:
            return
        means = mean_over_ranks(self.config, head.statistics.epoch_means())  # type: ignore[attr-defined]
        self.negative_statistics.append(means)
        for name, value in means.items():
            self.tensorboard.add_scalar(f"HNLM/{name}", value, epoch_idx)  # type: ignore[attr-defined]

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        self.best_epoch = epoch
        super()._save_checkpoint(epoch, verbose=verbose, **kwargs)  # type: ignore[misc]


def _with_scores(evaluated: Any, model: Any) -> Any:
    """A batch of RecBole's evaluation as it is, unless it has no score at all to rank by."""
    scores = evaluated[1]  # (users, items), -inf where masked
    if not torch.isfinite(scores[0]).any() and not torch.isfinite(scores).any():
        raise ValueError(
            f"{type(model).__name__} scores every item of {len(scores)} users NaN or infinite, so that their ranks and "
            "all metrics would mean nothing; look for a division by zero in it, or for a loss that has overflowed"
        )
    return evaluated


def watching(trainer_class: type) -> type:
    """A subclass of a RecBole trainer that also tells of the negatives; the same one for the same trainer."""
    if issubclass(trainer_class, _WatchingMixin):
        return trainer_class
    if trainer_class not in _WATCHING:
        bases = (_WatchingMixin, GroupMixin, trainer_class, GroupStart)
        _WATCHING[trainer_class] = type(trainer_class.__name__, bases, {})
    return _WATCHING[trainer_class]


def forget_gpu_peak(device: torch.device) -> None:
    """Let :func:`peak_gpu_memory_mib` begin anew; does nothing for other devices than CUDA's."""
    if device.type == "cuda":
        torch.cuda.init()  # which nothing may have done yet, and without which there is nothing to reset
        torch.cuda.reset_peak_memory_stats(device)


def peak_gpu_memory_mib(device: torch.device) -> float | None:
    """Most MiB that tensors took at once on a CUDA device since :func:`forget_gpu_peak`; None for other devices."""
    return torch.cuda.max_memory_allocated(device) / (1 << 20) if device.type == "cuda" else None


def peak_memory_mib() -> float:
    """The process's peak resident memory in MiB, on the host even where a GPU trains.

    Linux tells it of the program that runs now; ``getrusage`` also counts what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        for line in status.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024 * 1024 if sys.platform == "darwin" else 1024)
