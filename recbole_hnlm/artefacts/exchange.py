"""The interchange form: vectors as atomic text out of the matrices, and matrices out of text."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path

import numpy as np

from recbole_hnlm.artefacts.atomic import iter_rows
from recbole_hnlm.artefacts.cells import unquoted
from recbole_hnlm.artefacts.checks import (
    find_pair_fault,
    open_npy,
    read_neg_ids,
    read_tokens,
)
from recbole_hnlm.artefacts.errors import ArtefactError, missing, unusable
from recbole_hnlm.artefacts.lines import HNLM_EMB, ITEM_TEXT, vector_lines
from recbole_hnlm.artefacts.manifest import (
    ArtefactPaths,
    Manifest,
    Provenance,
    read_manifest,
    write_manifest,
)
from recbole_hnlm.artefacts.matrix_text import StoredRows, read_vector_text
from recbole_hnlm.artefacts.pair_text import PairText, read_pair_text
from recbole_hnlm.artefacts.pairs import ranks_in
from recbole_hnlm.artefacts.storage import directory_lock, write_text
from recbole_hnlm.artefacts.writer import ArtefactContents, write_artefact

_ALL_ROWS = 1 << 62
IMPORTED = "imported"
"""Name of the encoder of vectors that another program made."""


def export_text(directory: str | Path, name: str) -> Manifest:
    """Write ``NAME.hnlm_emb`` and ``NAME.item_text`` from the matrices, whatever their size.

    Returns:
        The new manifest, which lists both.
    """
    directory = Path(directory)
    paths = ArtefactPaths(directory, name)
    with directory_lock(directory), contextlib.ExitStack() as opened:
        manifest = read_manifest(directory, name)
        items = read_tokens(paths, manifest)[1]
        neg_ids = read_neg_ids(paths, manifest)
        files = dict(manifest.files)
        for suffix, columns, ids in (("item_text", ITEM_TEXT, items), ("hnlm_emb", HNLM_EMB, neg_ids)):
            matrix = paths.path(f"{suffix}.npy")
            array = open_npy(matrix, name)
            handle = opened.enter_context(matrix.open("rb"))
            vectors = StoredRows(handle, array.shape, matrix.stat().st_size - array.nbytes)
            lines = vector_lines(columns, ids, vectors, keep=suffix == "hnlm_emb")
            files[paths.path(suffix).name] = write_text(paths.path(suffix), lines)
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
    provenance = provenance or (old.provenance if old else Provenance(encoder=IMPORTED))
    return write_artefact(directory, name, contents, provenance, text_rows_limit=_ALL_ROWS)


def _read_contents(paths: ArtefactPaths, pairs_hash: str, pairs: int | None, least_per_pair: int) -> ArtefactContents:
    neg_ids, neg_vectors = _read_vectors(paths, "hnlm_emb")
    item_ids, item_rows = _read_vectors(paths, "item_text")
    if item_ids and neg_ids and item_rows.shape[1] != neg_vectors.shape[1]:
        found = f"has width {item_rows.shape[1]}, hnlm_emb has {neg_vectors.shape[1]}"
        raise unusable(paths.path("item_text"), found, paths.name)
    width = neg_vectors.shape[1] if neg_ids else item_rows.shape[1]
    told = _read_pairs(paths, neg_ids, least_per_pair)
    item_profiles = read_profiles(paths, "item_profile")
    user_profiles = read_profiles(paths, "user_profile")
    all_users = sorted({*told.users, *user_profiles})
    all_items = sorted({*told.items, *item_profiles, *item_ids})
    item_vectors = np.zeros((len(all_items), width), dtype=np.float16)
    if item_ids:
        item_vectors[ranks_in(item_ids, all_items)] = item_rows[:]
    return ArtefactContents(
        user_tokens=all_users,
        item_tokens=all_items,
        pair_users=ranks_in(told.users, all_users)[told.user_codes],
        pair_items=ranks_in(told.items, all_items)[told.item_codes],
        neg_rows=told.neg_rows,
        neg_ids=neg_ids,
        neg_vectors=neg_vectors if neg_ids else np.zeros((0, width), dtype=np.float16),
        item_vectors=item_vectors,
        item_profiles=[item_profiles.get(item, "") for item in all_items],
        user_profiles=[user_profiles.get(user, "") for user in all_users],
        pairs=len(told.user_codes) if pairs is None else pairs,
        pairs_hash=pairs_hash,
    )


def _read_vectors(paths: ArtefactPaths, suffix: str) -> tuple[list[str], StoredRows]:
    path = paths.path(suffix)
    if not path.is_file():
        raise missing(path, paths.name)
    try:
        return read_vector_text(path, paths.directory)
    except ValueError as error:
        raise unusable(path, f"is damaged: {error}", paths.name) from error


def _read_pairs(paths: ArtefactPaths, neg_ids: list[str], least_per_pair: int) -> PairText:
    path = paths.path("hnlm")
    if not path.is_file():
        raise missing(path, paths.name)
    told = read_pair_text(path, neg_ids, least_per_pair)
    if told is None:
        fault = find_pair_fault(path, set(neg_ids))
        raise unusable(path, fault or "is damaged", paths.name)
    return told


def read_profiles(paths: ArtefactPaths, suffix: str) -> dict[str, str]:
    """Profile of each user or item that ``NAME.suffix`` has; none where there is no such file.

    Raises:
        ArtefactError: If the file is damaged.
    """
    path = paths.path(suffix)
    if not path.is_file():
        return {}
    try:
        return {token: unquoted(profile) for _, (token, profile) in iter_rows(path, 2)}
    except ValueError as error:
        raise unusable(path, f"is damaged: {error}", paths.name) from error
