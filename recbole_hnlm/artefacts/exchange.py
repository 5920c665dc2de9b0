"""The interchange form: vectors as atomic text out of the matrices, and matrices out of text."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import iter_rows
from recbole_hnlm.artefacts.checks import (
    find_pair_fault,
    open_npy,
    read_neg_ids,
    read_tokens,
)
from recbole_hnlm.artefacts.errors import ArtefactError, missing, unusable
from recbole_hnlm.artefacts.float_text import parse_row
from recbole_hnlm.artefacts.manifest import (
    ArtefactPaths,
    Manifest,
    Provenance,
    read_manifest,
    write_manifest,
)
from recbole_hnlm.artefacts.pairs import ranks_in
from recbole_hnlm.artefacts.storage import directory_lock, write_text
from recbole_hnlm.artefacts.writer import (
    HNLM_EMB,
    ITEM_TEXT,
    ArtefactContents,
    vector_lines,
    write_artefact,
)

_ALL_ROWS = 1 << 62


def export_text(directory: str | Path, name: str) -> Manifest:
    """Write ``NAME.hnlm_emb`` and ``NAME.item_text`` from the matrices, whatever their size.

    Returns:
        The new manifest, which lists both.
    """
    directory = Path(directory)
    paths = ArtefactPaths(directory, name)
    manifest = read_manifest(directory, name)
    items = read_tokens(paths, manifest)[1]
    neg_ids = read_neg_ids(paths, manifest)
    item_vectors = open_npy(paths.path("item_text.npy"), name)
    neg_vectors = open_npy(paths.path("hnlm_emb.npy"), name)
    with directory_lock(directory):
        files = dict(manifest.files)
        path = paths.path("item_text")
        files[path.name] = write_text(path, vector_lines(ITEM_TEXT, items, item_vectors))
        path = paths.path("hnlm_emb")
        lines = vector_lines(HNLM_EMB, neg_ids, neg_vectors, keep=True)
        files[path.name] = write_text(path, lines)
        manifest = dataclasses.replace(manifest, files=files)
        write_manifest(directory, manifest)
    return manifest


def import_text(
    directory: str | Path,
    name: str,
    *,
    pairs_hash: str | None = None,
    pairs: int | None = None,
    provenance: Provenance | None = None,
) -> Manifest:
    """Make the matrices, the index and the manifest from ``NAME.hnlm`` and the vectors' text.

    Reads ``NAME.hnlm``, ``NAME.hnlm_emb`` and ``NAME.item_text``, and the two profile files where
    they are; this is the way in for vectors that another program made. What the text does not say
    comes from the manifest that is there, unless given.

    Args:
        directory: Where the files lie.
        name: Dataset.
        pairs_hash: Hash of the training pairs.
        pairs: Number of training pairs.
        provenance: What the vectors were made from.

    Raises:
        MissingArtefactError: If a text file is absent.
        ArtefactError: If one is damaged, or the hash of the pairs is neither given nor on record.
    """
    directory = Path(directory)
    paths = ArtefactPaths(directory, name)
    old = read_manifest(directory, name) if paths.manifest.is_file() else None
    pairs_hash = pairs_hash or (old.pairs_hash if old else None)
    if pairs_hash is None:
        raise ArtefactError(f"{paths.manifest} does not exist; pass pairs_hash to import_text")
    pairs = old.pairs if pairs is None and old else pairs
    contents = _read_contents(paths, pairs_hash, pairs, old.negatives_per_pair if old else 1)
    provenance = provenance or (old.provenance if old else Provenance(encoder="imported"))
    return write_artefact(directory, name, contents, provenance, text_rows_limit=_ALL_ROWS)


def _read_contents(paths: ArtefactPaths, pairs_hash: str, pairs: int | None, least_per_pair: int) -> ArtefactContents:
    neg_ids, neg_vectors = _read_vectors(paths, "hnlm_emb")
    item_ids, item_rows = _read_vectors(paths, "item_text")
    if item_ids and neg_ids and item_rows.shape[1] != neg_vectors.shape[1]:
        found = f"has width {item_rows.shape[1]}, hnlm_emb has {neg_vectors.shape[1]}"
        raise unusable(paths.path("item_text"), found, paths.name)
    width = neg_vectors.shape[1] if neg_ids else item_rows.shape[1]
    users, items, negs = _read_pairs(paths, set(neg_ids))
    item_profiles = _read_profiles(paths, "item_profile")
    user_profiles = _read_profiles(paths, "user_profile")
    all_users = sorted(set(users) | set(user_profiles))
    all_items = sorted(set(items) | set(item_profiles) | set(item_ids))
    item_vectors = np.zeros((len(all_items), width), dtype=np.float16)
    if item_ids:
        item_vectors[ranks_in(item_ids, all_items)] = item_rows
    per_pair = max([least_per_pair, *(len(row) for row in negs)])
    neg_rows = np.full((len(users), per_pair), -1, dtype=np.int64)
    row_of = {neg_id: row for row, neg_id in enumerate(neg_ids)}
    for place, ids in enumerate(negs):
        neg_rows[place, : len(ids)] = [row_of[neg_id] for neg_id in ids]
    return ArtefactContents(
        user_tokens=all_users,
        item_tokens=all_items,
        pair_users=ranks_in(users, all_users),
        pair_items=ranks_in(items, all_items),
        neg_rows=neg_rows,
        neg_ids=neg_ids,
        neg_vectors=neg_vectors.reshape(len(neg_ids), width),
        item_vectors=item_vectors,
        item_profiles=[item_profiles.get(item, "") for item in all_items],
        user_profiles=[user_profiles.get(user, "") for user in all_users],
        pairs=len(users) if pairs is None else pairs,
        pairs_hash=pairs_hash,
    )


def _read_vectors(paths: ArtefactPaths, suffix: str) -> tuple[list[str], NDArray[np.float16]]:
    path = paths.path(suffix)
    if not path.is_file():
        raise missing(path, paths.name)
    ids: list[str] = []
    rows: list[NDArray[np.float16]] = []
    try:
        for number, (token, text) in iter_rows(path, 2):
            row = parse_row(text)
            if rows and len(row) != len(rows[0]):
                raise ValueError(f"line {number} has {len(row)} numbers, expected {len(rows[0])}")
            if not np.isfinite(row).all():
                raise ValueError(f"line {number} has NaN or infinity in half precision")
            ids.append(token)
            rows.append(row)
        if len(set(ids)) != len(ids):
            raise ValueError("an id occurs twice")
    except ValueError as error:
        raise unusable(path, f"is damaged: {error}", paths.name) from error
    vectors: NDArray[Any] = np.stack(rows) if rows else np.zeros((0, 0), dtype=np.float16)
    return ids, vectors


def _read_pairs(paths: ArtefactPaths, known: set[str]) -> tuple[list[str], list[str], list[list[str]]]:
    path = paths.path("hnlm")
    if not path.is_file():
        raise missing(path, paths.name)
    fault = find_pair_fault(path, known)
    if fault:
        raise unusable(path, fault, paths.name)
    rows = [cells for _, cells in iter_rows(path, 3)]
    users, items, negs = ([row[column] for row in rows] for column in range(3))
    return users, items, [ids.split(" ") for ids in negs]


def _read_profiles(paths: ArtefactPaths, suffix: str) -> dict[str, str]:
    path = paths.path(suffix)
    if not path.is_file():
        return {}
    try:
        return {token: profile for _, (token, profile) in iter_rows(path, 2)}
    except ValueError as error:
        raise unusable(path, f"is damaged: {error}", paths.name) from error
