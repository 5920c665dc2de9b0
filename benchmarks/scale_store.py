"""The parts of ``scale.py`` that concern the artefact store; only its public reader and writer are used."""

from __future__ import annotations

from typing import Any

import numpy as np
from scale_data import Data, Measured, once, per_step

from recbole_hnlm.artefacts import ArtefactContents, ArtefactReader, Provenance, write_artefact

TEXT_WIDTH = 128


def write_store(data: Data) -> Measured:
    """Writing an artefact in which every pair owns a vector."""
    tokens, pairs = data.field2id_token, data.inter_num
    vectors = np.lib.format.open_memmap(data.folder / "made.npy", "w+", np.float16, (pairs, TEXT_WIDTH))
    rng = np.random.default_rng(3)
    for start in range(0, pairs, 1 << 17):
        block = vectors[start : start + (1 << 17)]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32)
    users, items = (data.inter_feat[field].numpy() - 1 for field in (data.uid_field, data.iid_field))
    contents = ArtefactContents(
        user_tokens=tokens[data.uid_field][1:].tolist(),
        item_tokens=tokens[data.iid_field][1:].tolist(),
        pair_users=users,
        pair_items=items,
        neg_rows=np.arange(pairs)[:, None],
        neg_ids=[f"n{row:08d}" for row in range(pairs)],
        neg_vectors=vectors,
        item_vectors=rng.standard_normal((data.item_num - 1, TEXT_WIDTH), dtype=np.float32),
        item_profiles=[""] * (data.item_num - 1),
        user_profiles=[""] * (data.user_num - 1),
        pairs=pairs,
        pairs_hash="0" * 64,
    )
    measured = once(lambda: write_artefact(data.folder, "store", contents, Provenance("synthetic")))
    (data.folder / "made.npy").unlink()
    return measured


def opened_store(data: Data) -> Any:
    """The artefact, checked and addressed by the dataset's ids."""
    tokens = data.field2id_token
    reader = ArtefactReader.open(data.folder, "store")
    return reader.bind(tokens[data.uid_field], tokens[data.iid_field])


def read_store(data: Data) -> Measured:
    """One batch's vectors, its pairs looked up and its rows read; the files are in the page cache."""
    store = opened_store(data)
    batches = [(users.numpy(), items.numpy()) for users, items in data.batches(64)]

    def step(at: int) -> None:
        rows = store.pair_rows(*batches[at % 64])
        store.read(rows[:, 0])

    return per_step(step, 400)
