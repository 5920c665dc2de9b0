"""Encoding split over the processes of a group, on one host or several that share the cache's folder.

Every process encodes its share of the parts into the cache, and all wait for the last. A part is encoded as a whole
and its batches do not depend on who encodes it, so with the same processor and threads the vectors are those of one
process, bit for bit. A process that dies leaves whole parts only; the same command goes on from them.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import compress
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from recbole_hnlm.llm.cache import VectorCache, encode_chunks, in_chunks, in_order
from recbole_hnlm.llm.encoders import TextEncoder

logger = logging.getLogger(__name__)
_PATIENCE = timedelta(days=2)  # the other processes wait while rank 0 trains the teacher; a dead one is noticed at once


class ShardError(ConnectionError):
    """The processes of a build cannot go on together."""


class _State:
    """Whether this process has joined a group to encode in; groups that train are another matter."""

    joined = False


@contextlib.contextmanager
def group() -> Iterator[None]:
    """Within it, the group that ``torchrun`` describes in the environment is joined, if there is one.

    Raises:
        ShardError: If the group does not come together.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield
        return
    try:
        dist.init_process_group("gloo", timeout=_PATIENCE)
    except (ValueError, RuntimeError) as error:
        raise ShardError(
            f"the processes of the build do not find each other ({error}); start it by torchrun"
        ) from error
    _State.joined = True
    yield
    _State.joined = False
    dist.destroy_process_group()  # not after an error: it would wait for the others, who learn of it by our exit


def is_sharded() -> bool:
    """Whether this process encodes for a group; groups that train do not encode together."""
    return _State.joined


def is_first() -> bool:
    """Whether this process does what only one of the group does; alone it does everything."""
    return not is_sharded() or dist.get_rank() == 0


def first_says(value: Any) -> Any:
    """The first process's ``value``, in all of the group."""
    return _broadcast(value) if is_sharded() else value


def local_device(device: str) -> str:
    """``device``, or in a group this process's own of the CUDA devices that are visible."""
    if not is_sharded() or not device.startswith("cuda"):
        return device
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"


def encode_share(
    texts: Sequence[str], encoder: TextEncoder, cache_dir: str | Path, *, batch_size: int, show_progress: bool = False
) -> int:
    """Encode this process's share of ``texts`` into the cache; returns when the whole group is done.

    Args:
        texts: All the texts of the build, in any order, repeated or not; the same in every process.
        encoder: What makes vectors; the same in every process.
        cache_dir: Folder of the cache, which all processes see.
        batch_size: Texts encoded at a time.
        show_progress: Whether rank 0 shows a bar.

    Returns:
        Number of texts that this process encoded.

    Raises:
        ShardError: If the processes have different texts, encoders or folders, or one of them stopped.
    """
    cache = VectorCache(cache_dir, encoder)
    try:
        _check_agreement(texts, encoder)
        _check_shared(cache.directory)
        chunks = in_chunks(_missing(texts, cache), batch_size)
        share = shares([sum(map(len, chunk)) for chunk in chunks], dist.get_world_size())[dist.get_rank()]
        mine = [chunks[place] for place in share]
        count = sum(map(len, mine))
        logger.info("process %d of %d encodes %d texts", dist.get_rank(), dist.get_world_size(), count)
        encode_chunks(mine, encoder, cache, show_progress=show_progress and dist.get_rank() == 0)
        dist.barrier()
    except RuntimeError as error:
        if not _is_of_the_group(error):
            raise
        raise _stopped(cache_dir) from error
    return count


def wait_for_all(cache_dir: str | Path) -> None:
    """Wait until every process is here.

    Raises:
        ShardError: If one of them stopped.
    """
    try:
        dist.barrier()
    except RuntimeError as error:
        raise _stopped(cache_dir) from error


def by_the_first(work: Callable[[], None], cache_dir: str | Path) -> None:
    """Do ``work`` in the first process of the group alone; returns when it is done.

    Raises:
        ShardError: If another process stopped.
    """
    if is_first():
        work()
    if is_sharded():
        wait_for_all(cache_dir)


def shares(costs: Sequence[int], count: int) -> list[list[int]]:
    """Places of ``costs`` for each of ``count`` processes, the dearest first, always to whoever has least to do."""
    load = [0] * count
    result: list[list[int]] = [[] for _ in range(count)]
    for place in sorted(range(len(costs)), key=lambda place: (-costs[place], place)):
        least = load.index(min(load))
        load[least] += costs[place]
        result[least].append(place)
    return result


def _missing(texts: Sequence[str], cache: VectorCache) -> list[str]:
    """What rank 0 does not find in the cache; another process may be late and find rank 0's first part there."""
    ordered = in_order(texts)
    flags = _broadcast(bytes(text not in cache for text in ordered))
    return list(compress(ordered, flags))


def _check_agreement(texts: Sequence[str], encoder: TextEncoder) -> None:
    digest = hashlib.sha256()
    for text in in_order(texts):
        digest.update(f"{len(text)} {text}".encode())
    about = (encoder.name, encoder.revision, encoder.backend, encoder.precision, digest.hexdigest()[:16])
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, about)
    for rank, other in enumerate(every):
        if other != every[0]:
            raise ShardError(
                f"process {rank} has {other} where process 0 has {every[0]} (encoder, weights, backend, precision, "
                "texts); give every process the same files, options and packages"
            )


def _check_shared(directory: Path) -> None:
    """Raise unless every process sees what rank 0 writes."""
    token = directory / f".{_broadcast(uuid.uuid4().hex)}"
    if dist.get_rank() == 0:
        token.touch()
    dist.barrier()
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, token.exists())
    if dist.get_rank() == 0:
        token.unlink(missing_ok=True)
    blind = [rank for rank, sees in enumerate(every) if not sees]
    if blind:
        raise ShardError(
            f"processes {blind} do not see {directory} of process 0; set llm_cache_dir to a folder that all hosts share"
        )


def _broadcast(value: Any) -> Any:
    holder = [value]
    dist.broadcast_object_list(holder, src=0)
    return holder[0]


def _is_of_the_group(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or any(word in str(error) for word in ("gloo", "Connection", "peer"))


def _stopped(cache_dir: str | Path) -> ShardError:
    return ShardError(
        f"another process of the build stopped; what was encoded is kept in {cache_dir}; look for its error above "
        "and run the same command again"
    )
