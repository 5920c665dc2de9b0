"""Downloading a dataset in a run of one process."""

from types import ModuleType
from typing import Any

from .registry import overlay, shim


def _barrier_needs_a_group() -> bool:
    import torch.distributed as dist

    if not dist.is_available() or dist.is_initialized():
        return False
    try:
        dist.barrier()
    except (ValueError, RuntimeError):
        return True
    return False


@shim("recbole.data.dataset.dataset")
def download_barrier(module: ModuleType) -> bool:
    """Let ``Dataset._download`` end where there is no process group to wait for.

    RecBole waits for the other processes after a download even where there are none, which torch refuses, so the first
    run on a freshly downloaded dataset fails and the second one works. Only this module sees the patient barrier.
    RecBole issue #1989.
    """
    if not _barrier_needs_a_group():
        return False
    import torch
    import torch.distributed as dist

    def barrier(*args: Any, **kwargs: Any) -> Any:
        return dist.barrier(*args, **kwargs) if dist.is_initialized() else None

    overlay(module, torch, "torch")
    overlay(module.torch, dist, "distributed", barrier=barrier)
    return True
