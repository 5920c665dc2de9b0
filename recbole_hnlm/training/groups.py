"""RecBole's trainers in a group of processes, on CUDA and on the CPU: gradients averaged, one evaluation, one writer.

Two classes around a trainer of RecBole's: :class:`GroupMixin` before it, :class:`GroupStart` after it and in front of
``AbstractTrainer``, whose constructor asks for CUDA. Both do nothing in a run of one process.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from recbole.evaluator import Collector
from recbole.trainer.trainer import AbstractTrainer
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recbole_hnlm.training.processes import gathered, mean_over_ranks, shared

_PER_SAMPLE = ("rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.label")
_NAMES: set[str] = set()
"""Checkpoints that this process has named, written or not."""
_NAMING = threading.Lock()


class _Gradients(nn.Module):
    """A model as torch's data parallel sees it: its parameters, and a forward that leaves its own alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, value: Tensor) -> Tensor:
        """The value itself; RecBole computes the loss outside."""
        return value


class GroupStart(AbstractTrainer):
    """RecBole's ``AbstractTrainer`` for processes with and without a CUDA device.

    RecBole announces every step to torch's data parallel, then computes the loss on the model itself and adds 0 times
    every parameter, so that each one takes part in the averaging whether the loss used it or not.
    """

    def __init__(self, config: Any, model: Any) -> None:
        if config["single_spec"]:
            super().__init__(config, model)
            return
        self.config = config
        cuda = config["device"].type == "cuda"
        self.model = nn.SyncBatchNorm.convert_sync_batchnorm(model) if cuda else model  # it has no CPU kernel
        self.distributed_model = DistributedDataParallel(
            _Gradients(self.model), device_ids=[config["local_rank"]] if cuda else None
        )

    def set_reduce_hook(self) -> None:
        """Announce a step: from here to the next backward gradients are averaged."""
        self.distributed_model(torch.zeros(1, device=self.config["device"]))


class GroupMixin:
    """What a trainer does differently in a group: the first rank writes, all ranks know the same."""

    config: Any
    model: Any

    def __init__(self, config: Any, model: Any) -> None:
        super().__init__(config, model)  # type: ignore[call-arg]
        if config["single_spec"]:
            return
        self.eval_collector: Any = GroupCollector(config)
        if config["local_rank"] != 0:
            _remove_events(self.tensorboard)
            self.tensorboard: Any = _NoEvents()

    def _train_epoch(self, train_data: Any, *args: Any, **kwargs: Any) -> Any:
        """Train, and return the mean of the ranks' losses."""
        loss = super()._train_epoch(train_data, *args, **kwargs)  # type: ignore[misc]
        if self.config["single_spec"]:
            return loss
        terms = loss if isinstance(loss, tuple) else (loss,)
        means = mean_over_ranks(self.config, {str(index): float(term) for index, term in enumerate(terms)})
        return tuple(means.values()) if isinstance(loss, tuple) else means["0"]

    def evaluate(self, eval_data: Any, *args: Any, **kwargs: Any) -> Any:
        """RecBole's evaluation; each rank scores its share and all ranks return the metrics of the whole."""
        if not self.config["single_spec"] and eval_data:
            self.eval_collector.expect(eval_data)
        return super().evaluate(eval_data, *args, **kwargs)  # type: ignore[misc]

    def _map_reduce(self, result: Any, num_sample: int) -> Any:
        """The result as it is: the collector has gathered already.

        RecBole takes the mean of the ranks' rounded metrics, in which users that pad a share count twice, and which is
        no coverage or Gini index of the whole.
        """
        return result

    def _save_checkpoint(self, epoch: int, verbose: bool = True, **kwargs: Any) -> None:
        super()._save_checkpoint(epoch, verbose=verbose, **kwargs)  # type: ignore[misc]
        if not self.config["single_spec"]:
            dist.barrier()  # nobody reads it before it is written


class GroupCollector(Collector):
    """RecBole's collector of an evaluation's outcome, for all ranks together and in the order of one process."""

    def expect(self, loader: Any) -> None:
        """Note which rows the coming evaluation will hold twice.

        torch's sampler deals samples to the ranks in turn and pads the last round from the start, so a rank's last
        sample may be another rank's first.
        """
        sampler, self._samples = loader.sampler, loader.sample_size
        last = (sampler.num_samples - 1) * sampler.num_replicas + sampler.rank
        self._padded = 0
        if last >= self._samples:
            self._padded = 1
            if self.register.need("rec.score") and hasattr(loader, "uid2items_num") and hasattr(loader, "times"):
                first = loader.uid_list[last % self._samples]  # a user's positives and drawn negatives, a row each
                self._padded = int(loader.uid2items_num[first]) * loader.times

    def get_data_struct(self) -> Any:
        """The outcome of all ranks' batches."""
        struct = super().get_data_struct()
        own = {key: struct[key] for key in _PER_SAMPLE if key in struct}
        own = {key: rows[: rows.shape[0] - self._padded] for key, rows in own.items()}
        every = gathered(self.config, own)
        for key in own:
            struct[key] = _dealt_back([part[key] for part in every], self._samples)
        return struct


def _dealt_back(parts: list[Tensor], samples: int) -> Tensor:
    """Rows of all ranks in the order of one process where every sample has one row, else rank after rank."""
    whole = torch.cat(parts)
    if whole.shape[0] == samples:
        ordered = torch.empty_like(whole)
        for rank, part in enumerate(parts):
            ordered[rank :: len(parts)] = part
        return ordered
    return whole


class _NoEvents:
    """A TensorBoard writer of a rank that writes nothing."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


def _remove_events(writer: Any) -> None:
    """Take back the events file that RecBole has opened in this process, and its folder if nobody else is in it."""
    folder = Path(writer.log_dir)
    writer.close()
    for path in folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
        path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def checkpoint_name(config: Any, path: str) -> str:
    """A name that no other run takes and all ranks of this one know.

    RecBole names a checkpoint by the second, so two runs that start together would write over each other's, in this
    process too. The first process of every host writes one, under a name of its own where hosts share the folder.
    """
    stem, suffix = os.path.splitext(path)
    name = shared(config, _own_name(f"{stem}-{os.getpid()}", suffix))
    host = f"-host{config['offset']}" if config["offset"] else ""
    return f"{name}{host}{suffix}"


def _own_name(stem: str, suffix: str) -> str:
    """The stem, numbered where it is taken: by a file, or by a run of this process that may still write one."""
    names = itertools.chain([stem], (f"{stem}-{run}" for run in itertools.count(2)))
    with _NAMING:
        for name in names:
            path = os.path.abspath(name + suffix)
            if path not in _NAMES and not os.path.exists(path):
                break
        _NAMES.add(path)
    return name
