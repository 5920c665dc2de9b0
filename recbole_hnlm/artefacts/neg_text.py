"""``NAME.neg_text``: hard negatives as text and the catalogue items they stand for, with a manifest of its own.

Legend: P training pairs, K texts per pair, G items of a text.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import check_tokens, clean_text, header_line, iter_rows
from recbole_hnlm.artefacts.cells import quoted, unquoted
from recbole_hnlm.artefacts.errors import ArtefactError, MissingArtefactError, unusable
from recbole_hnlm.artefacts.manifest import ArtefactPaths, package_version
from recbole_hnlm.artefacts.storage import (
    FileEntry,
    directory_lock,
    hash_file,
    remove_temporaries,
    sync_directory,
    write_text,
)

NEG_TEXT = (
    ("user_id", "token"),
    ("item_id", "token"),
    ("neg_text", "token_seq"),
    ("neg_item_id", "token"),
    ("similarity", "float"),
)
FORMAT_VERSION = 1


@dataclass(frozen=True)
class NegativeTable:
    """Content of ``NAME.neg_text``, by rank.

    Attributes:
        user_tokens: Users by rank.
        item_tokens: Items by rank.
        names: The distinct texts.
        pair_users: User rank of each training pair, shape ``(P,)``.
        pair_items: Item rank of each training pair, shape ``(P,)``.
        name_rows: Texts of each pair, best first, -1 for none, shape ``(P, K)``.
        items: Item ranks of each text, nearest first, -1 for none, shape ``(P, K, G)``.
        similarity: Cosine of each text and item, shape ``(P, K, G)``.
        pairs_hash: Hash of the training pairs.
        provenance: What the texts were made from: model, prompts, encoder, settings.
    """

    user_tokens: Sequence[str]
    item_tokens: Sequence[str]
    names: Sequence[str]
    pair_users: NDArray[np.int64]
    pair_items: NDArray[np.int64]
    name_rows: NDArray[np.int64]
    items: NDArray[np.int64]
    similarity: NDArray[np.float32]
    pairs_hash: str
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse arrays that do not line up, and tokens that a file cannot hold."""
        pairs = len(self.pair_users)
        shapes = self.pair_items.shape, self.name_rows.shape[:1], self.items.shape[:2], self.similarity.shape
        expected = (pairs,), (pairs,), self.name_rows.shape, self.items.shape
        if shapes != expected:
            raise ValueError(f"pair_items, name_rows, items and similarity are {shapes}; expected {expected}")
        check_tokens(self.user_tokens, "user token")
        check_tokens(self.item_tokens, "item token")


@dataclass(frozen=True)
class NegTextManifest:
    """Content of ``NAME.neg_text.json``.

    Attributes:
        name: Dataset.
        pairs_hash: Hash of the training pairs.
        pairs: Number of training pairs.
        pairs_with_text: Pairs with at least one text.
        pairs_grounded: Pairs with at least one item.
        rows: Lines of ``NAME.neg_text`` after the header.
        file: Length and checksum of ``NAME.neg_text``.
        provenance: What the texts were made from.
        format_version: Version of this layout.
        package_version: Version of the package that wrote it.
    """

    name: str
    pairs_hash: str
    pairs: int
    pairs_with_text: int
    pairs_grounded: int
    rows: int
    file: FileEntry
    provenance: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION
    package_version: str = ""


def write_neg_text(directory: str | Path, name: str, table: NegativeTable) -> NegTextManifest:
    """Write ``NAME.neg_text`` and its manifest, crash-safe, the manifest last.

    A line for each item of a text; a text without any has one line with an empty item and similarity 0. The same
    content gives the same bytes, pairs by user and item rank.

    Returns:
        The manifest.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    paths = ArtefactPaths(directory, name)
    with directory_lock(directory):
        remove_temporaries(directory, name)
        for suffix in ("neg_text.json", "neg_text"):
            paths.path(suffix).unlink(missing_ok=True)
        sync_directory(directory)
        grounded = table.items >= 0
        lines = np.maximum(grounded.sum(axis=2), table.name_rows >= 0)
        manifest = NegTextManifest(
            name=name,
            pairs_hash=table.pairs_hash,
            pairs=len(table.pair_users),
            pairs_with_text=int((table.name_rows >= 0).any(axis=1).sum()),
            pairs_grounded=int(grounded.any(axis=(1, 2)).sum()),
            rows=int(lines.sum()),
            file=write_text(paths.path("neg_text"), _lines(table)),
            provenance=dict(table.provenance),
            package_version=package_version(),
        )
        text = json.dumps(dataclasses.asdict(manifest), indent=2, sort_keys=True, ensure_ascii=False)
        write_text(paths.path("neg_text.json"), [text + "\n"])
    return manifest


def _lines(table: NegativeTable) -> Iterator[str]:
    yield header_line(NEG_TEXT)
    names = [quoted(clean_text(name)) for name in table.names]
    for pair in np.lexsort((table.pair_items, table.pair_users)).tolist():
        head = f"{table.user_tokens[table.pair_users[pair]]}\t{table.item_tokens[table.pair_items[pair]]}"
        for negative, row in enumerate(table.name_rows[pair].tolist()):
            if row < 0:
                continue
            found = [
                f"{head}\t{names[row]}\t{table.item_tokens[item]}\t{similarity:.4f}\n"
                for item, similarity in zip(
                    table.items[pair, negative].tolist(), table.similarity[pair, negative].tolist(), strict=True
                )
                if item >= 0
            ]
            yield "".join(found) or f"{head}\t{names[row]}\t\t0\n"


def _missing(path: Path, name: str) -> MissingArtefactError:
    return MissingArtefactError(
        f"{path} does not exist; a chat model writes it: recbole-hnlm build --dataset={name} --llm_backend=openai "
        "--llm_chat_model=NAME (or transformers), with --dry_run first to see what it takes"
    )


def read_neg_text_manifest(directory: str | Path, name: str, *, pairs_hash: str | None = None) -> NegTextManifest:
    """The manifest of ``NAME.neg_text``, held against the file.

    Args:
        directory: Where the files lie.
        name: Dataset.
        pairs_hash: Hash of the training pairs at hand; None takes a file of any split.

    Raises:
        MissingArtefactError: If the file or its manifest is absent.
        ArtefactError: If one is damaged, of a newer version, or of another split.
    """
    paths = ArtefactPaths(Path(directory), name)
    path, text = paths.path("neg_text.json"), paths.path("neg_text")
    if not path.is_file():
        raise _missing(path, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if int(content["format_version"]) > FORMAT_VERSION:
            raise ArtefactError(f"{path} is of format {content['format_version']}; upgrade recbole_hnlm")
        manifest = NegTextManifest(**{**content, "file": FileEntry(**content["file"])})
    except ArtefactError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise unusable(path, f"is not a readable manifest ({error})", name) from error
    if pairs_hash is not None and pairs_hash != manifest.pairs_hash:
        hashes = f"(hash {manifest.pairs_hash[:12]}, this split has {pairs_hash[:12]})"
        raise unusable(path, f"was built from other training pairs {hashes}", name)
    if not text.is_file():
        raise _missing(text, name)
    size = text.stat().st_size
    if size != manifest.file.bytes:
        raise unusable(text, f"has {size} bytes, its manifest says {manifest.file.bytes}: it is cut short", name)
    if hash_file(text) != manifest.file.sha256:
        raise unusable(text, "has other content than its manifest says (sha256 differs)", name)
    return manifest


def remove_neg_text(directory: str | Path, name: str) -> None:
    """Remove ``NAME.neg_text``, its manifest first: a build of other negatives must not leave the old ones behind."""
    paths = ArtefactPaths(Path(directory), name)
    for suffix in ("neg_text.json", "neg_text"):
        paths.path(suffix).unlink(missing_ok=True)


def iter_neg_text(directory: str | Path, name: str, limit: int | None = None) -> Iterator[tuple[str, ...]]:
    """User, item, text, catalogue item and similarity of each line.

    Args:
        directory: Where the file lies.
        name: Dataset.
        limit: Most lines.

    Raises:
        MissingArtefactError: If there is no such file.
        ArtefactError: If a line has another form.
    """
    path = ArtefactPaths(Path(directory), name).path("neg_text")
    if not path.is_file():
        raise _missing(path, name)
    try:
        for _, (user, item, text, grounded, similarity) in iter_rows(path, len(NEG_TEXT), limit):
            yield user, item, unquoted(text), grounded, similarity
    except ValueError as error:
        raise unusable(path, f"is damaged: {error}", name) from error


def distinct_values(column: pa.StringArray) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct cells of a column, and which of them each cell is, shape ``(n,)``."""
    encoded = pc.dictionary_encode(column)
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)
