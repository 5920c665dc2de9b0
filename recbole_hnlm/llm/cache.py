"""Vectors of texts kept between builds, so that no text is encoded twice by the same encoder.

A cache is a directory per encoder with one ``.npy`` shard per batch of new texts; each shard holds
the keys (128 bits of the text's sha256) beside the vectors and appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.storage import TEMPORARY_SUFFIX, write_npy
from recbole_hnlm.llm.encoders import SENTENCE_TRANSFORMERS, TextEncoder
from recbole_hnlm.llm.progress import progress_bar

logger = logging.getLogger(__name__)
_SHARD_BATCHES = 8
_STALE_SECONDS = 3600.0
_PLAIN = (SENTENCE_TRANSFORMERS, "float32")


def text_keys(texts: Sequence[str]) -> list[bytes]:
    """Key of each text, 16 bytes."""
    return [hashlib.sha256(text.encode()).digest()[:16] for text in texts]


class VectorCache:
    """The vectors that one encoder has made so far."""

    def __init__(self, directory: str | Path, encoder: TextEncoder) -> None:
        """Open the part of the cache in ``directory`` that belongs to ``encoder``; made if absent.

        Damaged shards are removed with a warning; their texts are encoded anew.

        Raises:
            OSError: If a shard cannot be read for another reason; it stays.
        """
        slug = re.sub(r"[^A-Za-z0-9.-]+", "-", Path(encoder.name).name)[-60:]
        identity = f"{encoder.name}\n{encoder.revision}\n{encoder.width}"
        if (encoder.backend, encoder.precision) != _PLAIN:  # which caches of earlier versions hold
            identity += f"\n{encoder.backend}\n{encoder.precision}"
        fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.directory = Path(directory) / f"{slug}-{fingerprint}"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.width = encoder.width
        self._dtype = np.dtype([("key", "u1", (16,)), ("vector", "<f4", (self.width,))])
        self._places: dict[bytes, tuple[Path, int]] = {}
        for path in self.directory.glob(f".*{TEMPORARY_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):  # it may be another build's, done by now
                if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink(missing_ok=True)
        for path in sorted(self.directory.glob("*.npy")):
            shard = self._open(path)
            if shard is None:
                logger.warning("%s is damaged and was removed; its texts are encoded anew", path)
                path.unlink(missing_ok=True)
            else:
                self._register(path, shard)

    def __len__(self) -> int:
        """Number of texts whose vectors are there."""
        return len(self._places)

    def __contains__(self, text: str) -> bool:
        """Whether the vector of ``text`` is there."""
        return text_keys([text])[0] in self._places

    def store(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        """Add one shard: the vectors, shape ``(n, S)``, of ``texts``; durable on return."""
        shard = np.zeros(len(texts), dtype=self._dtype)
        keys = text_keys(texts)
        shard["key"] = np.frombuffer(b"".join(keys), dtype=np.uint8).reshape(-1, 16)
        shard["vector"] = vectors
        path = self.directory / f"{hashlib.sha256(b''.join(keys)).hexdigest()[:24]}.npy"
        write_npy(path, shard, self._dtype)
        self._register(path, shard)

    def lookup(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """The vectors of ``texts``, shape ``(n, S)``.

        Raises:
            KeyError: If one of them is not there.
        """
        result = np.empty((len(texts), self.width), dtype=np.float32)
        by_shard: dict[Path, tuple[list[int], list[int]]] = {}
        for place, key in enumerate(text_keys(texts)):
            path, row = self._places[key]
            targets, rows = by_shard.setdefault(path, ([], []))
            targets.append(place)
            rows.append(row)
        for path, (targets, rows) in by_shard.items():
            result[targets] = np.load(path, mmap_mode="r", allow_pickle=False)["vector"][rows]
        return result

    def _open(self, path: Path) -> NDArray[Any] | None:
        try:
            shard: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError):
            return None
        if shard.dtype != self._dtype or not np.isfinite(shard["vector"]).all():
            return None
        return shard

    def _register(self, path: Path, shard: NDArray[Any]) -> None:
        for row, key in enumerate(np.ascontiguousarray(shard["key"])):
            self._places.setdefault(key.tobytes(), (path, row))


def encode_cached(
    texts: Sequence[str],
    encoder: TextEncoder,
    cache: VectorCache,
    *,
    batch_size: int = 128,
    show_progress: bool = False,
) -> tuple[NDArray[np.float32], int]:
    """Vectors of ``texts``, encoding only what the cache does not have.

    New texts are encoded longest first (batches of like length waste little padding, and a machine
    too small fails at once), a shard of eight batches at a time. A killed run continues after its
    last whole shard with the very batches it would have had, hence with the same bits on the same
    machine and number of threads.

    Args:
        texts: Any texts, repeated or not; empty ones are not encoded, and their vectors are zero.
        encoder: What makes vectors.
        cache: Where they are kept.
        batch_size: Texts encoded at a time.
        show_progress: Whether to show a bar.

    Returns:
        Vectors, shape ``(n, S)``; and the number of texts that were encoded now.

    Raises:
        ValueError: If the encoder returns something else than finite vectors of its width.
    """
    told = [place for place, text in enumerate(texts) if text]
    wanted = [texts[place] for place in told]
    chunks = in_chunks([text for text in in_order(wanted) if text not in cache], batch_size)
    encode_chunks(chunks, encoder, cache, show_progress=show_progress)
    vectors = np.zeros((len(texts), encoder.width), dtype=np.float32)
    vectors[told] = cache.lookup(wanted)
    return vectors, sum(map(len, chunks))


def in_order(texts: Sequence[str]) -> list[str]:
    """The distinct ``texts`` in the order of their encoding: longest first, then by the alphabet."""
    return sorted(dict.fromkeys(texts), key=lambda text: (-len(text), text))


def in_chunks(missing: list[str], batch_size: int) -> list[list[str]]:
    """What is to be encoded in the parts that are encoded and stored as one; they follow from ``missing`` alone."""
    step = batch_size * _SHARD_BATCHES
    return [missing[start : start + step] for start in range(0, len(missing), step)]


def encode_chunks(
    chunks: Sequence[list[str]], encoder: TextEncoder, cache: VectorCache, *, show_progress: bool = False
) -> None:
    """Encode ``chunks`` and store each as a shard.

    Raises:
        ValueError: If the encoder returns something else than finite vectors of its width.
    """
    with progress_bar(sum(map(len, chunks)), "encode texts", show_progress) as bar:
        for chunk in chunks:
            vectors = encoder.encode(chunk)
            if vectors.shape != (len(chunk), encoder.width) or not np.isfinite(vectors).all():
                raise ValueError(
                    f"encoder {encoder.name} gave {vectors.shape} with finite="
                    f"{bool(np.isfinite(vectors).all())}, expected finite "
                    f"{(len(chunk), encoder.width)}; check its precision"
                )
            cache.store(chunk, vectors)
            bar.update(len(chunk))
