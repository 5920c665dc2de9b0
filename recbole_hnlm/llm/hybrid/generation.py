"""The query vector of every training pair (HNLMRec), made part by part, by one process or a group.

Prompts are sorted by length once; a part is a run of them. Which prompts share a batch follows from the part alone, so
a run that was killed, or that several processes share, ends with the bytes of an undisturbed one on a like machine.

Legend: P training pairs, S width of the language model.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.storage import TEMPORARY_SUFFIX, sync_directory, write_npy, write_text
from recbole_hnlm.llm.hybrid.adapter import adapter_digest, check_projector, load_adapter, read_info
from recbole_hnlm.llm.hybrid.contrast import length_batches
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder, encode
from recbole_hnlm.llm.hybrid.loading import on_this_machine
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder
from recbole_hnlm.llm.hybrid.report import GenerateReport
from recbole_hnlm.llm.progress import progress_bar
from recbole_hnlm.llm.sharding import ShardError, first_says, is_first, is_sharded, shares, wait_for_all
from recbole_hnlm.options.hybrid import BaseSettings, GenerateSettings

logger = logging.getLogger(__name__)


def generate(
    pairs: PairTexts, adapter: str | Path, base: BaseSettings, settings: GenerateSettings, output_dir: str | Path
) -> GenerateReport:
    """Make the vector of every training pair, and keep them in ``output_dir``.

    The file's name tells adapter, prompts and pairs by a fingerprint; what is there already is not made again. In a
    group every process makes its share of the parts and the first one joins them; all return when the file is there.

    Args:
        pairs: Training pairs of one dataset, for which the adapter has a projector.
        adapter: Folder of a fine-tuned adapter, made or refitted on that dataset.
        base: The base model that it was tuned on; prompt lengths are the adapter's.
        settings: Sizes of batches and parts.
        output_dir: Where parts and vectors go; all processes see it.

    Raises:
        ValueError: If the adapter does not fit the base model or the dataset.
        ShardError: If another process stopped or works on something else.
    """
    started, base = time.perf_counter(), on_this_machine(base)
    check_projector(pairs, read_info(adapter), adapter)
    mark = fingerprint(pairs, adapter, base, settings)
    if first_says(mark) != mark:
        raise ShardError("the processes have different pairs, adapters or settings; give each the same files")
    directory = Path(output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    path, parts_dir = directory / f"vectors-{mark}.npy", directory / f"parts-{mark}"
    done = first_says(_recorded(path))
    if done is not None:
        logger.info("%s is there already", path)
        return replace(GenerateReport(path=path, **done), made=0, seconds=time.perf_counter() - started)
    loaded, info = load_adapter(adapter, base, merged=True)
    builder = PromptBuilder(pairs, info.template, loaded.tokens, info.lengths)
    lengths = builder.lengths(np.arange(len(pairs)))
    order = np.lexsort((np.arange(len(pairs)), -lengths))  # longest first, so that a machine too small fails at once
    parts = [order[start : start + settings.part_pairs] for start in range(0, len(order), settings.part_pairs)]
    parts_dir.mkdir(exist_ok=True)
    width = loaded.model.width
    missing = first_says([n for n, part in enumerate(parts) if _read_part(parts_dir, n, (len(part), width)) is None])
    made = _make_parts(_mine(missing, parts, lengths), parts, builder, (loaded.model, settings), parts_dir)
    if is_sharded():
        wait_for_all(directory)
    found = {
        "pairs": len(pairs), "made": made, "truncated": builder.truncated(np.arange(len(pairs))),
        "tokens": int(lengths.sum()), "seconds": time.perf_counter() - started,
    }  # fmt: skip
    report = GenerateReport(path=path, **found)  # type: ignore[arg-type]
    if is_first():
        _join(path, parts, parts_dir, (len(pairs), width))
        about = {key: value for key, value in asdict(report).items() if key != "path"}
        write_text(path.with_suffix(".json"), [json.dumps(about, indent=1, sort_keys=True), "\n"])
        shutil.rmtree(parts_dir)
        logger.info("vectors of %s in %s\n%s", pairs.name, path, report.table())
    if is_sharded():
        wait_for_all(directory)
    return report


def fingerprint(pairs: PairTexts, adapter: str | Path, base: BaseSettings, settings: GenerateSettings) -> str:
    """16 hex digits over adapter, prompt, pairs and whatever else decides the vectors."""
    made_of = {
        "adapter": adapter_digest(adapter), "dataset": pairs.name, "pairs": pairs.digest(),
        "precision": base.precision, "quantization": base.quantization,
        "batch_tokens": settings.batch_tokens, "part_pairs": settings.part_pairs,
    }  # fmt: skip
    return hashlib.sha256(json.dumps(made_of, sort_keys=True).encode()).hexdigest()[:16]


def encode_items(
    pairs: PairTexts, adapter: str | Path, base: BaseSettings, settings: GenerateSettings
) -> NDArray[np.float32]:
    """Vectors of all items' texts in the space of the pairs' vectors, zero without text, shape ``(n_items, S)``."""
    loaded, info = load_adapter(adapter, base, merged=True)
    builder = PromptBuilder(pairs, info.template, loaded.tokens, info.lengths)
    vectors = np.zeros((len(pairs.item_profiles), loaded.model.width), dtype=np.float32)
    items = np.flatnonzero(pairs.text_of_item >= 0)
    for batch in length_batches(builder.item_lengths(items).tolist(), settings.batch_tokens):
        vectors[items[batch]] = encode(loaded.model, builder.items(items[batch]))
    return vectors


def _mine(missing: list[int], parts: Sequence[NDArray[np.int64]], lengths: NDArray[np.int64]) -> list[int]:
    """The missing parts that this process makes."""
    if not is_sharded():
        return missing
    import torch.distributed as dist

    costs = [int(lengths[parts[number]].sum()) for number in missing]
    return sorted(missing[place] for place in shares(costs, dist.get_world_size())[dist.get_rank()])


def _make_parts(
    numbers: list[int],
    parts: Sequence[NDArray[np.int64]],
    builder: PromptBuilder,
    how: tuple[HybridEncoder, GenerateSettings],
    directory: Path,
) -> int:
    """Make and store the parts in ``numbers``; returns their pairs."""
    model, settings = how
    total = sum(len(parts[number]) for number in numbers)
    logger.info("making vectors of %d pairs", total)
    with progress_bar(total, "generate vectors", settings.show_progress and is_first()) as bar:
        for number in numbers:
            vectors = np.empty((len(parts[number]), model.width), dtype=np.float32)
            for batch in length_batches(builder.lengths(parts[number]).tolist(), settings.batch_tokens):
                vectors[batch] = encode(model, builder.prompts(parts[number][batch]))
                bar.update(len(batch))
            if not np.isfinite(vectors).all():
                raise ValueError("the model gives NaN or infinity; use llm_precision=bfloat16 or float32")
            write_npy(directory / f"part-{number:06d}.npy", vectors, "<f2")
    return total


def _read_part(directory: Path, number: int, shape: tuple[int, int]) -> NDArray[np.float16] | None:
    """A stored part, or None where it is absent or damaged."""
    path = directory / f"part-{number:06d}.npy"
    if not path.is_file():
        return None
    try:
        rows: NDArray[np.float16] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError):
        rows = np.empty((0, 0), dtype=np.float16)
    if rows.shape != shape or rows.dtype != np.float16 or not np.isfinite(rows).all():
        logger.warning("%s is damaged and is made anew", path)
        return None
    return rows


def _join(path: Path, parts: Sequence[NDArray[np.int64]], directory: Path, shape: tuple[int, int]) -> None:
    """Put the parts' rows into the order of the pairs, through a memory map and a temporary name."""
    for stale in path.parent.glob(f".{path.name}.*{TEMPORARY_SUFFIX}"):  # of a run killed right here
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    rows = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.dtype("<f2"), shape=shape)
    for number, part in enumerate(parts):
        found = _read_part(directory, number, (len(part), shape[1]))
        if found is None:
            raise OSError(f"part {number} in {directory} is gone or damaged; run the same command again")
        rows[part] = found
    rows.flush()
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    os.replace(temporary, path)
    sync_directory(path.parent)


def _recorded(path: Path) -> dict[str, float] | None:
    """What is recorded of vectors that are there, or None; the record is written last."""
    record = path.with_suffix(".json")
    if not (path.is_file() and record.is_file()):
        return None
    try:
        about: dict[str, float] = json.loads(record.read_text(encoding="utf-8"))
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError):
        logger.warning("%s is damaged and is made anew", path)
        return None
    return about if len(rows) == about["pairs"] else None
