"""A small artefact with known contents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.artefacts import ArtefactContents, Manifest, Provenance, hash_pairs, write_artefact

PAIRS = [("u1", "i2"), ("u1", "i0"), ("u2", "i1"), ("u10", "i3")]
VECTORS = np.array([[1, 0, 0], [0, 0.5, -0.25], [0.1, 0.2, 0.3]], dtype=np.float32)


@pytest.fixture
def contents() -> ArtefactContents:
    """Users u1 u10 u2 (sorted as text), items i0..i3, two negatives a pair, (u10, i3) without one."""
    users, items = ["u1", "u10", "u2"], ["i0", "i1", "i2", "i3"]
    item_vectors = np.zeros((4, 3), dtype=np.float32)
    item_vectors[[0, 1, 3]] = VECTORS
    return ArtefactContents(
        user_tokens=users,
        item_tokens=items,
        pair_users=np.array([users.index(user) for user, _ in PAIRS]),
        pair_items=np.array([items.index(item) for _, item in PAIRS]),
        neg_rows=np.array([[0, 1], [2, -1], [-1, 1], [-1, -1]]),
        neg_ids=["i0", "i1", "i3"],
        neg_vectors=VECTORS,
        item_vectors=item_vectors,
        item_profiles=["Zero", "One\tand\n  more", "", 'Three "quoted" 3" wide'],
        user_profiles=["first", "tenth", ""],
        pairs=len(PAIRS),
        pairs_hash=hash_pairs([user for user, _ in PAIRS], [item for _, item in PAIRS]),
    )


@pytest.fixture
def built(tmp_path: Path, contents: ArtefactContents) -> Path:
    """A directory with the artefact of dataset ``toy``."""
    write_artefact(tmp_path, "toy", contents, Provenance(encoder="test", teacher={"model": "BPR"}))
    return tmp_path


@pytest.fixture
def wide_artefact(tmp_path: Path) -> Manifest:
    """Dataset ``wide``: each of 65,536 pairs owns a vector of width 512, without the text form."""
    tokens = [f"t{place:05d}" for place in range(256)]
    keys = np.arange(1 << 16)
    vectors = np.random.default_rng(0).standard_normal((1 << 16, 512), dtype=np.float32).astype(np.float16)
    contents = ArtefactContents(
        user_tokens=tokens,
        item_tokens=tokens,
        pair_users=keys // 256,
        pair_items=keys % 256,
        neg_rows=keys[:, None],
        neg_ids=[f"n{place}" for place in range(1 << 16)],
        neg_vectors=vectors,
        item_vectors=vectors[:256],
        item_profiles=[""] * 256,
        user_profiles=[""] * 256,
        pairs=1 << 16,
        pairs_hash="0",
    )
    return write_artefact(tmp_path, "wide", contents, Provenance(encoder="test"), text_rows_limit=0)
