"""Text vectors of a catalogue: encoded or read from the cache, centred, reduced and of unit length.

Legend: n items of the catalogue, S width of the vectors.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.pairs import ranks_in
from recbole_hnlm.llm.cache import VectorCache, encode_cached
from recbole_hnlm.llm.encoders import EncoderRun, TextEncoder, build_encoder
from recbole_hnlm.llm.request import BuildRequest
from recbole_hnlm.llm.text_vectors import centre_and_normalise

logger = logging.getLogger(__name__)
TEACHER_ENCODER = "teacher"


@dataclass(frozen=True)
class ItemVectors:
    """Text vectors by item rank, and where they come from.

    Attributes:
        vectors: Of unit length, zero where there is no text, shape ``(n, S)``.
        encoder: Name of the encoder, or ``teacher``.
        revision: Commit or checksum of its weights.
        pooling: How token states become one vector.
        settings: What else the manifest records of the encoding.
        encoded: Texts that were encoded now.
        cached: Distinct texts that were in the cache.
    """

    vectors: NDArray[np.float32]
    encoder: str
    revision: str
    pooling: str
    settings: dict[str, Any]
    encoded: int
    cached: int


def item_vectors(request: BuildRequest, items: list[str], texts: list[str], encoder: TextEncoder | None) -> ItemVectors:
    """Vectors of a catalogue's texts, or the teacher's item embeddings where there is no text at all.

    Args:
        request: What is being built.
        items: The catalogue by rank.
        texts: Their texts, ``""`` for none.
        encoder: What makes the vectors; loaded by the options where it is None.

    Raises:
        ValueError: If no vector can be made.
    """
    options = request.options
    mask = np.array([bool(text) for text in texts])
    if not mask.any():
        return _fallback_vectors(request, items)
    if encoder is None:
        encoder = build_encoder(options.encoder, request.device, EncoderRun.of(options))
    raw, encoded = encode_cached(
        texts,
        encoder,
        VectorCache(request.cache_dir, encoder),
        batch_size=options.encoder_batch_size,
        show_progress=request.show_progress,
    )
    vectors = centre_and_normalise(raw, mask, options.text_width)
    cached = len(set(texts) - {""}) - encoded
    settings = {
        "encoder_backend": encoder.backend,
        "encoder_precision": encoder.precision,
        "text_width": options.text_width,
    }
    return ItemVectors(vectors, encoder.name, encoder.revision, encoder.pooling, settings, encoded, cached)


def _fallback_vectors(request: BuildRequest, items: list[str]) -> ItemVectors:
    if request.fallback_vectors is None:
        raise ValueError(
            f"dataset {request.dataset} has no text and no fallback_vectors were given; add a "
            ".item file with a token_seq field or pass the teacher's item embeddings"
        )
    logger.warning(
        "dataset %s has no text; the teacher's item embeddings stand in for text vectors",
        request.dataset,
    )
    raw = np.zeros((len(items), request.fallback_vectors.shape[1]), dtype=np.float32)
    raw[ranks_in(request.catalogue, items)] = request.fallback_vectors
    vectors = centre_and_normalise(raw, np.any(raw != 0, axis=1))
    return ItemVectors(vectors, TEACHER_ENCODER, "", "", {}, 0, 0)
