"""Writes the artefact of a dataset: every file crash-safe, the manifest last.

Legend: P pairs, K negatives per pair, S width of the vectors.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import check_tokens
from recbole_hnlm.artefacts.checks import first_not_finite
from recbole_hnlm.artefacts.lines import (
    HNLM_EMB,
    ITEM_PROFILE,
    ITEM_TEXT,
    USER_PROFILE,
    check_neg_ids,
    pair_lines,
    profile_lines,
    token_lines,
    vector_lines,
)
from recbole_hnlm.artefacts.manifest import (
    ArtefactPaths,
    Manifest,
    Provenance,
    package_version,
    write_manifest,
)
from recbole_hnlm.artefacts.matrix_text import StoredRows
from recbole_hnlm.artefacts.pairs import build_index
from recbole_hnlm.artefacts.storage import (
    FileEntry,
    directory_lock,
    remove_temporaries,
    sync_directory,
    write_npy,
    write_text,
)

logger = logging.getLogger(__name__)
TEXT_ROWS_LIMIT = 50_000
_CHUNK_ROWS = 8192
Vectors = NDArray[np.floating[Any]] | StoredRows

ALL_SUFFIXES = (
    "item_profile",
    "user_profile",
    "item_text",
    "item_text.npy",
    "user_text.npy",
    "hnlm",
    "hnlm_emb",
    "hnlm_emb.npy",
    "hnlm_index.npy",
    "hnlm_tokens",
)


@dataclass(frozen=True)
class ArtefactContents:
    """Everything an artefact holds, aligned by rank (tokens sorted, each once).

    Attributes:
        user_tokens: Users with a training pair, sorted.
        item_tokens: Items of the catalogue, sorted.
        pair_users: User rank of each training pair, shape ``(P,)``.
        pair_items: Item rank of each training pair, shape ``(P,)``.
        neg_rows: Rows of ``neg_vectors`` for each pair, -1 for none, shape ``(P, K)``.
        neg_ids: Name of each row of ``neg_vectors``, without white space.
        neg_vectors: Hard-negative vectors, shape ``(rows, S)``, read slice by slice: a file of them does.
        item_vectors: Text vectors, zero where an item has none, shape ``(items, S)``.
        item_profiles: Text of each item, ``""`` for none.
        user_profiles: Text of each user.
        pairs: Number of training pairs, P or more (pairs without a vector may be left out).
        pairs_hash: Hash of all the training pairs.
    """

    user_tokens: Sequence[str]
    item_tokens: Sequence[str]
    pair_users: NDArray[np.int64]
    pair_items: NDArray[np.int64]
    neg_rows: NDArray[np.int64]
    neg_ids: Sequence[str]
    neg_vectors: Vectors
    item_vectors: NDArray[np.floating[Any]]
    item_profiles: Sequence[str]
    user_profiles: Sequence[str]
    pairs: int
    pairs_hash: str


def write_artefact(
    directory: str | Path,
    name: str,
    contents: ArtefactContents,
    provenance: Provenance,
    *,
    text_rows_limit: int = TEXT_ROWS_LIMIT,
) -> Manifest:
    """Write the artefact of dataset ``name`` and return its manifest.

    The old manifest goes first and the new one comes last, so that a build that is killed leaves no
    manifest and is never mistaken for a whole one. Equal contents give equal bytes.

    Args:
        directory: Where to write; made if need be.
        name: Dataset.
        contents: What to write.
        provenance: What it was made from.
        text_rows_limit: Vectors are written as text too where there are at most so many rows.

    Raises:
        ValueError: If the contents do not fit together, or a vector is NaN or infinite.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    _check(contents)
    index = build_index(contents.pair_users, contents.pair_items, len(contents.item_tokens), contents.neg_rows)
    with directory_lock(directory):
        remove_temporaries(directory, name)
        files = _write_files(ArtefactPaths(directory, name), contents, index, text_rows_limit)
        manifest = Manifest(
            name=name,
            pairs_hash=contents.pairs_hash,
            pairs=contents.pairs,
            covered_pairs=index.shape[1],
            negatives_per_pair=contents.neg_rows.shape[1],
            rows=len(contents.neg_ids),
            width=contents.neg_vectors.shape[1],
            users=len(contents.user_tokens),
            items=len(contents.item_tokens),
            items_with_text=int(np.any(contents.item_vectors, axis=1).sum()),
            provenance=provenance,
            files=files,
            package_version=package_version(),
        )
        path = write_manifest(directory, manifest)
    logger.info("wrote %s: %d rows of width %d", path, manifest.rows, manifest.width)
    return manifest


def _check(contents: ArtefactContents) -> None:
    users, items = len(contents.user_tokens), len(contents.item_tokens)
    pairs, rows = len(contents.pair_users), len(contents.neg_ids)
    found = {
        "pair_items": (contents.pair_items.shape, (pairs,)),
        "neg_rows": (contents.neg_rows.shape[:1], (pairs,)),
        "neg_vectors": (contents.neg_vectors.shape[:1], (rows,)),
        "item_vectors": (contents.item_vectors.shape, (items, contents.neg_vectors.shape[1])),
        "item_profiles": (len(contents.item_profiles), items),
        "user_profiles": (len(contents.user_profiles), users),
    }
    for what, (got, expected) in found.items():
        if got != expected:
            raise ValueError(f"{what} has shape {got}, expected {expected}")
    if contents.neg_rows.size and contents.neg_rows.max() >= rows:
        raise ValueError(f"neg_rows names row {contents.neg_rows.max()}, there are {rows}")
    for what, tokens in (
        ("user token", contents.user_tokens),
        ("item token", contents.item_tokens),
    ):
        check_tokens(tokens, what)
        if any(a >= b for a, b in zip(tokens, tokens[1:], strict=False)):
            raise ValueError(f"{what}s are expected sorted, each once")
    check_neg_ids(contents.neg_ids)
    for what, vectors in (("neg_vectors", contents.neg_vectors), ("item", contents.item_vectors)):
        for start in range(0, len(vectors), _CHUNK_ROWS):
            with np.errstate(over="ignore"):
                half = np.asarray(vectors[start : start + _CHUNK_ROWS]).astype(np.float16, copy=False)
            bad = first_not_finite(half)
            if bad is not None:
                raise ValueError(f"{what} row {start + bad} is not finite in half precision")


def _write_files(
    paths: ArtefactPaths, contents: ArtefactContents, index: NDArray[np.int64], limit: int
) -> dict[str, FileEntry]:
    for suffix in ("hnlm.json", *ALL_SUFFIXES):
        paths.path(suffix).unlink(missing_ok=True)
    sync_directory(paths.directory)
    files: dict[str, FileEntry] = {}

    def text(suffix: str, lines: Iterator[str]) -> None:
        files[paths.path(suffix).name] = write_text(paths.path(suffix), lines)

    def npy(suffix: str, array: NDArray[Any] | StoredRows, dtype: Any) -> None:
        files[paths.path(suffix).name] = write_npy(paths.path(suffix), array, dtype)

    text("item_profile", profile_lines(ITEM_PROFILE, contents.item_tokens, contents.item_profiles))
    text("user_profile", profile_lines(USER_PROFILE, contents.user_tokens, contents.user_profiles))
    text("hnlm_tokens", token_lines(contents.user_tokens, contents.item_tokens, contents.neg_ids))
    text("hnlm", pair_lines(contents.user_tokens, contents.item_tokens, contents.neg_ids, index))
    npy("hnlm_index.npy", index, "<i8")
    npy("item_text.npy", contents.item_vectors, "<f2")
    npy("hnlm_emb.npy", contents.neg_vectors, "<f2")
    if len(contents.item_tokens) <= limit:
        text("item_text", vector_lines(ITEM_TEXT, contents.item_tokens, contents.item_vectors))
    if len(contents.neg_ids) <= limit:
        text("hnlm_emb", vector_lines(HNLM_EMB, contents.neg_ids, contents.neg_vectors, keep=True))
    return files
