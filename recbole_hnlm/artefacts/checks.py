"""Finds out before training what is wrong with the files of an artefact, in flat memory.

Every file's length is compared with the manifest, small files are hashed, vectors are looked
through for NaN, and the index for order and range.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import iter_rows
from recbole_hnlm.artefacts.errors import ArtefactError, missing, unusable
from recbole_hnlm.artefacts.manifest import ArtefactPaths, Manifest
from recbole_hnlm.artefacts.storage import hash_file

HASHED_BYTES = 64 << 20
_CHUNK_BYTES = 8 << 20
_SCAN_BYTES = 512 << 10
_HALF_INFINITY = np.uint16(0x7C00)
_HALF_MAGNITUDE = np.uint16(0x7FFF)


def check_artefact(paths: ArtefactPaths, manifest: Manifest, pairs_hash: str | None) -> None:
    """Raise the first fault found, cheapest checks first.

    Args:
        paths: Where the files lie.
        manifest: Their manifest.
        pairs_hash: Hash of the training pairs at hand; ``None`` leaves that check out.

    Raises:
        MissingArtefactError: If a file is absent.
        ArtefactError: If a file is damaged, or the artefact is of another split.
    """
    if pairs_hash is not None and pairs_hash != manifest.pairs_hash:
        raise ArtefactError(
            f"{paths.manifest} was built from other training pairs (hash "
            f"{manifest.pairs_hash[:12]}, this split has {pairs_hash[:12]}), which seed, filters and eval_args decide; "
            "add --hnlm_rebuild=True to this run's own settings, or give each split an hnlm_artefact_dir"
        )
    for suffix in ("hnlm", "hnlm_emb.npy", "hnlm_index.npy", "hnlm_tokens", "item_text.npy"):
        if not manifest.has_file(suffix):
            raise unusable(paths.manifest, f"does not list {paths.name}.{suffix}", paths.name)
    for file_name, entry in manifest.files.items():
        path = paths.directory / file_name
        if not path.is_file():
            raise missing(path, paths.name)
        size = path.stat().st_size
        if size != entry.bytes:
            found = f"has {size} bytes, the manifest says {entry.bytes}: it is cut short or changed"
            raise _explained(paths, path, found)
    check_vectors(paths, "hnlm_emb.npy", (manifest.rows, manifest.width))
    check_vectors(paths, "item_text.npy", (manifest.items, manifest.width))
    if manifest.has_file("user_text.npy"):
        check_vectors(paths, "user_text.npy", (manifest.users, manifest.width))
    check_index(paths, manifest)
    for file_name, entry in manifest.files.items():
        path = paths.directory / file_name
        if entry.bytes <= HASHED_BYTES and hash_file(path) != entry.sha256:
            found = "has other content than the manifest says (sha256 differs)"
            raise _explained(paths, path, found)


def check_vectors(paths: ArtefactPaths, suffix: str, shape: tuple[int, int]) -> None:
    """Refuse a matrix of another shape or type, or with a NaN or infinite entry.

    The file is read in blocks and not through the map, so that looking it through keeps no memory.
    """
    path = paths.path(suffix)
    array = open_npy(path, paths.name)
    if array.shape != shape or array.dtype != np.float16:
        found = f"holds {array.dtype} {array.shape}, the manifest says float16 {shape}"
        raise unusable(path, found, paths.name)
    offset = path.stat().st_size - array.nbytes
    rows = max(_SCAN_BYTES // (2 * max(shape[1], 1)), 1)  # a block stays in the processor's cache
    block = np.empty((rows, shape[1]), dtype=np.float16)
    with path.open("rb") as handle:
        handle.seek(offset)
        for start in range(0, shape[0] if shape[1] else 0, rows):
            count = handle.readinto(block.data.cast("B")) // (2 * shape[1])
            row = first_not_finite(block[:count])
            if row is not None:
                raise unusable(path, f"has NaN or infinity in row {start + row}", paths.name)


def first_not_finite(block: NDArray[np.float16]) -> int | None:
    """The first row of ``block``, shape ``(n, S)``, with a NaN or infinite entry, None if there is none."""
    magnitude = np.ascontiguousarray(block).view(np.uint16) & _HALF_MAGNITUDE
    if not magnitude.size or magnitude.max() < _HALF_INFINITY:
        return None
    return int((magnitude >= _HALF_INFINITY).any(axis=1).argmax())


def check_index(paths: ArtefactPaths, manifest: Manifest) -> None:
    """Refuse an index with repeated or unordered pairs, or rows that the matrix does not have."""
    path = paths.path("hnlm_index.npy")
    index = open_npy(path, paths.name)
    shape = (1 + manifest.negatives_per_pair, manifest.covered_pairs)
    if index.shape != shape or index.dtype != np.int64:
        found = f"holds {index.dtype} {index.shape}, the manifest says int64 {shape}"
        raise unusable(path, found, paths.name)
    step = max(_CHUNK_BYTES // 8, 1)
    for start in range(0, shape[1], step):
        keys = index[0, start : start + step + 1]
        repeated = np.flatnonzero(keys[1:] == keys[:-1])
        if len(repeated):
            found = f"has a duplicate pair (entry {start + repeated[0] + 1})"
            raise unusable(path, found, paths.name)
        if (keys[1:] < keys[:-1]).any() or keys[0] < 0:
            raise unusable(path, "is not sorted by pair", paths.name)
        if keys[-1] >= manifest.users * max(manifest.items, 1):
            raise unusable(path, "names users or items that are not there", paths.name)
        rows = index[1:, start : start + step]
        if rows.min() < -1 or rows.max() >= manifest.rows:
            found = f"names row {rows.max()} of {manifest.rows} vectors"
            raise unusable(path, found, paths.name)


def open_npy(path: Path, name: str) -> NDArray[Any]:
    """The array of an ``.npy`` file, memory-mapped unless it is empty, never unpickled."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError as error:
        raise missing(path, name) from error
    except ValueError as error:
        try:
            array = np.load(path, allow_pickle=False)
        except ValueError:
            raise unusable(path, f"is no readable .npy file ({error})", name) from error
        if array.size:
            raise unusable(path, f"cannot be mapped ({error})", name) from error
    return array


def read_tokens(paths: ArtefactPaths, manifest: Manifest) -> tuple[list[str], list[str]]:
    """Users and items of the artefact, each sorted; the vectors' ids behind them stay unread."""
    users, items, _ = _token_groups(paths, manifest, manifest.users + manifest.items)
    return users, items


def read_neg_ids(paths: ArtefactPaths, manifest: Manifest) -> list[str]:
    """Name of each row of ``NAME.hnlm_emb.npy``."""
    return _token_groups(paths, manifest, None)[2]


def _token_groups(
    paths: ArtefactPaths, manifest: Manifest, limit: int | None
) -> tuple[list[str], list[str], list[str]]:
    path = paths.path("hnlm_tokens")
    groups: dict[str, list[str]] = {"user": [], "item": [], "neg": []}
    try:
        for _, (kind, token) in iter_rows(path, 2, limit):
            groups[kind].append(token)
    except (ValueError, KeyError) as error:
        raise unusable(path, f"is damaged ({error})", paths.name) from error
    wanted = (manifest.users, manifest.items, manifest.rows if limit is None else 0)
    got = tuple(len(tokens) for tokens in groups.values())
    if got != wanted:
        raise unusable(path, f"holds {got} tokens, the manifest says {wanted}", paths.name)
    return groups["user"], groups["item"], groups["neg"]


def find_pair_fault(path: Path, known: set[str] | None) -> str | None:
    """What is wrong with the rows of ``NAME.hnlm``: columns, a repeated pair, an unknown vector.

    Args:
        path: The file.
        known: Names of the vectors there are; ``None`` leaves that check out.

    Returns:
        The fault with its line number, or ``None``.
    """
    seen: dict[tuple[str, str], int] = {}
    try:
        for number, (user, item, neg_ids) in iter_rows(path, 3):
            first = seen.setdefault((user, item), number)
            if first != number:
                return f"has the duplicate pair ({user}, {item}) in lines {first} and {number}"
            unknown = [neg for neg in neg_ids.split(" ") if known is not None and neg not in known]
            if unknown:
                return f"names the unknown neg_id {unknown[0]!r} in line {number}"
    except ValueError as error:
        return f"is damaged: {error}"
    return None


def _explained(paths: ArtefactPaths, path: Path, found: str) -> ArtefactError:
    if path == paths.path("hnlm"):
        tokens = paths.path("hnlm_tokens")
        known: set[str] | None = None
        if tokens.is_file():
            with tokens.open(encoding="utf-8", newline="\n") as handle:
                lines = (line.rstrip("\n").split("\t") for line in islice(handle, 1, None))
                known = {line[-1] for line in lines if line[0] == "neg"}
        fault = find_pair_fault(path, known)
        found = f"{fault}; it {found}" if fault else found
    return unusable(path, found, paths.name)
