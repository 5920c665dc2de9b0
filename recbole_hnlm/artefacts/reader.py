"""Reads an artefact in training: rows of the memory-mapped vectors for pairs of internal ids.

Legend: B pairs of a batch, K vectors per pair, S width of the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.checks import check_artefact, open_npy, read_tokens
from recbole_hnlm.artefacts.errors import ArtefactError, unusable
from recbole_hnlm.artefacts.lookup import PairIndex
from recbole_hnlm.artefacts.manifest import ArtefactPaths, Manifest, read_manifest
from recbole_hnlm.artefacts.pairs import Tokens, ranks_in
from recbole_hnlm.artefacts.vector_file import RESIDENT_BYTES, VectorFile

_NO_USER = -(1 << 62)
_NO_ITEM = -(1 << 61)


class ArtefactReader:
    """An artefact that was found whole and fit for the training pairs; see :meth:`open`."""

    def __init__(self, paths: ArtefactPaths, manifest: Manifest) -> None:
        """Take an artefact that was checked already; :meth:`open` does both."""
        self.paths = paths
        self.manifest = manifest

    @classmethod
    def open(cls, directory: str | Path, name: str, *, pairs_hash: str | None = None) -> ArtefactReader:
        """Check the artefact of dataset ``name`` and open it.

        Takes well under a second for a million pairs; large matrices are looked through in blocks.

        Args:
            directory: Where the files lie.
            name: Dataset.
            pairs_hash: :func:`~recbole_hnlm.artefacts.pairs.hash_pairs` of the training pairs at
                hand; ``None`` takes an artefact of any split.

        Raises:
            MissingArtefactError: If a file is absent (also a ``FileNotFoundError``).
            ArtefactError: If a file is damaged, or the artefact is of another split.
        """
        paths = ArtefactPaths(Path(directory), name)
        manifest = read_manifest(directory, name)
        check_artefact(paths, manifest, pairs_hash)
        return cls(paths, manifest)

    def bind(self, user_tokens: Tokens, item_tokens: Tokens, *, resident_bytes: int = RESIDENT_BYTES) -> BoundArtefact:
        """Look the artefact's tokens up among a dataset's internal ids.

        Args:
            user_tokens: Token of each internal user id; entry 0 is padding.
            item_tokens: Token of each internal item id; entry 0 is padding.
            resident_bytes: Largest matrix of vectors that is read through a memory map; what the map has touched counts
                as memory of the process. Larger ones are read row by row, slower and in flat memory.

        Returns:
            The artefact, addressed by internal ids.

        Raises:
            ArtefactError: If the artefact has a user or item that the dataset does not have, or another process has
                begun to write it anew since it was opened.
        """
        users, items = read_tokens(self.paths, self.manifest)
        user_ranks = self._ranks(user_tokens, users, "user")
        item_ranks = self._ranks(item_tokens, items, "item")
        name = self.paths.name
        bound = BoundArtefact(
            self.manifest,
            PairIndex(open_npy(self.paths.path("hnlm_index.npy"), name)),
            VectorFile(self.paths.path("hnlm_emb.npy"), name, resident_bytes),
            TextFiles(
                open_npy(self.paths.path("item_text.npy"), name),
                open_npy(self.paths.path("user_text.npy"), name) if self.manifest.has_file("user_text.npy") else None,
            ),
            user_ranks,
            item_ranks,
        )
        self._check_still_there()
        return bound

    def _check_still_there(self) -> None:
        """Refuse files of two builds: a build takes the old manifest away before it changes anything else."""
        try:
            now = read_manifest(self.paths.directory, self.paths.name).files
        except ArtefactError:
            now = {}
        if any(now.get(file) != entry for file, entry in self.manifest.files.items()):  # users' text may have joined
            raise ArtefactError(
                f"{self.paths.manifest} has changed since it was opened, so another process writes the artefacts anew; "
                "run again when it has ended"
            )

    def _ranks(self, tokens: Tokens, known: list[str], kind: str) -> NDArray[np.int64]:
        ranks = ranks_in(tokens, known)
        ranks[:1] = -1
        found = np.zeros(len(known), dtype=bool)
        found[ranks[ranks >= 0]] = True
        if not found.all():
            lacking = np.flatnonzero(~found)
            raise unusable(
                self.paths.path("hnlm_tokens"),
                f"has {kind} {known[lacking[0]]!r}, which the dataset does not have ({len(lacking)} such {kind}s)",
                self.paths.name,
            )
        return ranks


@dataclass(frozen=True)
class TextFiles:
    """Text vectors as they lie in their files.

    Attributes:
        items: By item rank, shape ``(items, S)``.
        users: By user rank, shape ``(users, S)``; None where the artefact has none.
    """

    items: NDArray[np.float16]
    users: NDArray[np.float16] | None


class BoundArtefact:
    """An artefact addressed by the internal ids of one dataset.

    Holds three small arrays; the index is a memory map, the vectors are one or a file that is read row by row.
    """

    def __init__(
        self,
        manifest: Manifest,
        index: PairIndex,
        vectors: VectorFile,
        texts: TextFiles,
        user_ranks: NDArray[np.int64],
        item_ranks: NDArray[np.int64],
    ) -> None:
        """Made by :meth:`ArtefactReader.bind`.

        Args:
            manifest: Manifest of the files.
            index: Which vectors belong to a pair.
            vectors: Hard-negative vectors, shape ``(rows, S)``.
            texts: Text vectors by rank.
            user_ranks: User rank by internal user id, -1 for none, shape ``(n_users,)``.
            item_ranks: Item rank by internal item id, -1 for none, shape ``(n_items,)``.
        """
        self.manifest = manifest
        self._index = index
        self._vectors = vectors
        self._texts = texts
        self._user_ranks = user_ranks
        self._item_ranks = item_ranks
        self._user_base = np.where(user_ranks >= 0, user_ranks * manifest.items, _NO_USER)
        self._item_keys = np.where(item_ranks >= 0, item_ranks, _NO_ITEM)

    @property
    def width(self) -> int:
        """Width of the vectors, S."""
        return self.manifest.width

    @property
    def negatives_per_pair(self) -> int:
        """Vectors a pair may have, K."""
        return self.manifest.negatives_per_pair

    @property
    def mapped(self) -> bool:
        """Whether vectors come through a memory map; else row by row, in flat memory."""
        return self._vectors.mapped

    def pair_rows(self, user_ids: NDArray[np.int64], item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of the vectors of each pair, for :meth:`read`.

        Args:
            user_ids: Internal user ids, shape ``(B,)``.
            item_ids: Internal item ids, shape ``(B,)``.

        Returns:
            Shape ``(B, K)``, int64, best negative first; -1 where there is none.

        Raises:
            IndexError: If an id is not the dataset's.
        """
        return self._index.rows(self._keys(user_ids, item_ids))

    def coverage(self, user_ids: NDArray[np.int64], item_ids: NDArray[np.int64]) -> float:
        """Share of the pairs, shape ``(B,)``, that have at least one vector; 0 for no pairs."""
        _, found = self._index.locate(self._keys(user_ids, item_ids))
        return float(found.mean()) if len(found) else 0.0

    def read(self, rows: NDArray[np.int64]) -> NDArray[np.float16]:
        """The vectors of ``rows``, shape ``(n,)``, as a new array ``(n, S)`` in half precision.

        Raises:
            IndexError: If a row is -1 (a pair without a vector) or beyond the matrix.
        """
        return self._vectors.read(rows)

    def item_text(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Text vectors by internal item id, and which items have one.

        Returns:
            Vectors, shape ``(n_items, S)``, float32, zero where there is none; and a mask, shape
            ``(n_items,)``.
        """
        return _placed(self._texts.items, self._item_ranks)

    def user_text(self) -> tuple[NDArray[np.float32], NDArray[np.bool_]] | None:
        """As :meth:`item_text`, of the users' profiles; None where the artefact has no such vectors."""
        return None if self._texts.users is None else _placed(self._texts.users, self._user_ranks)

    def _keys(self, user_ids: NDArray[np.int64], item_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        keys: NDArray[np.int64] = self._user_base[user_ids] + self._item_keys[item_ids]
        return keys


def _placed(rows: NDArray[np.float16], ranks: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Rows by internal id, zero where the rank is -1, and which of them are not zero: ``(n, S)`` and ``(n,)``."""
    known = ranks >= 0
    vectors = np.zeros((len(known), rows.shape[1]), dtype=np.float32)
    vectors[known] = rows[ranks[known]]
    mask: NDArray[np.bool_] = np.any(vectors != 0, axis=1)
    return vectors, mask
