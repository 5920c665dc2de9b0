"""Text vectors as training reads them: from the artefacts of the offline part, bound to one dataset's ids.

Shapes: ``N`` items, ``U`` users, ``S`` text width, ``B`` pairs.
"""

from __future__ import annotations

import hashlib
import logging
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recbole_hnlm.artefacts import ArtefactReader, hash_pairs_of_ids
from recbole_hnlm.models.ahead import ReadAhead
from recbole_hnlm.models.controls import ControlledPairs, controlled
from recbole_hnlm.models.pair_vectors import PairVectors, distinct_rows
from recbole_hnlm.options import HNLMOptions
from recbole_hnlm.samplers import TrainingInteractions

logger = logging.getLogger(__name__)


def artefact_directory(config: Any, options: HNLMOptions) -> Path:
    """Where the artefacts of a run live: as told, else beside the dataset if that is writable, else in the working
    directory.
    """
    if options.artefact_dir is not None:
        return Path(options.artefact_dir)
    beside = Path(config["data_path"])
    if beside.is_dir() and os.access(beside, os.W_OK):
        return beside
    return Path("hnlm_artefacts") / str(config["dataset"])


def training_pairs(dataset: Any) -> tuple[np.ndarray, np.ndarray]:
    """User and item tokens of a RecBole training split, two string arrays of its length."""
    users = dataset.field2id_token[dataset.uid_field][dataset.inter_feat[dataset.uid_field].numpy()]
    items = dataset.field2id_token[dataset.iid_field][dataset.inter_feat[dataset.iid_field].numpy()]
    return np.asarray(users, dtype=str), np.asarray(items, dtype=str)


def hash_of_training_pairs(dataset: Any) -> str:
    """Hash of a RecBole training split, equal to that of :func:`training_pairs`, without their strings."""
    tokens, feat = dataset.field2id_token, dataset.inter_feat
    ids = (feat[dataset.uid_field].numpy(), feat[dataset.iid_field].numpy())
    return hash_pairs_of_ids(tokens[dataset.uid_field], tokens[dataset.iid_field], *ids)


class TextVectors:
    """Item and user text vectors on the training device, and the pairs' hard-negative vectors on disk.

    Args:
        items: Item text vectors, shape ``(N, S)``; zero rows where an item has no text.
        item_mask: Which items have text, shape ``(N,)``, bool.
        interactions: Training pairs; a user's vector is the mean of the user's items, unless ``users`` are given.
        pairs: Bound reader of the per-pair vectors, or None where training does not read them.
        device: Training device.
        users: Vectors of users, shape ``(U, S)``, and which of them have one, shape ``(U,)``, bool.
    """

    def __init__(
        self,
        items: Tensor,
        item_mask: Tensor,
        interactions: TrainingInteractions,
        pairs: Any,
        device: torch.device,
        users: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        self.items = items.to(device)
        self.item_mask = item_mask.to(device)
        self.pairs = pairs
        self._ahead = ReadAhead(self._read_pairs)
        vectors, mask = self._mean_of_items(interactions) if users is None else users
        self.users, self.user_mask = vectors.to(device), mask.to(device)

    def __deepcopy__(self, memo: dict[int, Any]) -> TextVectors:
        """Itself: vectors are never written to."""
        return self

    @property
    def width(self) -> int:
        """``S``."""
        return int(self.items.shape[1])

    @cached_property
    def item_scale(self) -> Tensor:
        """What makes each item's vector of unit norm, shape ``(N,)``."""
        return self.items.norm(dim=1).clamp_min(1e-12).reciprocal()

    @cached_property
    def digest(self) -> str:
        """Hash of the items' and users' vectors."""
        made = hashlib.sha256()
        for vectors in (self.items, self.users):
            made.update(vectors.detach().cpu().numpy().tobytes())
        return made.hexdigest()

    def _mean_of_items(self, interactions: TrainingInteractions) -> tuple[Tensor, Tensor]:
        owner = torch.div(interactions.keys, interactions.n_items, rounding_mode="floor")
        item = interactions.keys - owner * interactions.n_items
        total = torch.zeros(interactions.n_users, self.width, device=self.items.device)
        for start in range(0, owner.numel(), 1 << 17):  # blocks keep the gathered rows small
            block = slice(start, start + (1 << 17))
            total.index_add_(0, owner[block].to(total.device), self.items[item[block].to(total.device)])
        norm = total.norm(dim=1, keepdim=True)
        return total / norm.clamp_min(1e-12), norm.squeeze(1) > 0

    def rows_of(self, users: Tensor, items: Tensor) -> Tensor:
        """Where the vectors of pairs are, for :meth:`pair_vectors`: shape ``(B, K)`` on the CPU, -1 for none.

        Args:
            users: User ids, shape ``(B,)``.
            items: Item ids, shape ``(B,)``.
        """
        return torch.from_numpy(self.pairs.pair_rows(users.cpu().numpy(), items.cpu().numpy()))

    def tell(self, rows: Tensor) -> bool:
        """Have the vectors of a later batch read while others are trained on; :meth:`pair_vectors` fetches them.

        Args:
            rows: On the CPU, the very ones that are going to be asked for; False comes back where enough others wait.
        """
        return self._ahead.tell(rows)

    def pair_vectors(self, rows: Tensor) -> PairVectors:
        """Hard-negative vectors of pairs, several per pair averaged; each distinct one is read once.

        Args:
            rows: Where they are, shape ``(B, K)``.
        """
        found, device = self._ahead.take(rows), self.items.device
        return PairVectors(
            found.vectors.to(device, non_blocking=True).float(),
            found.index.to(device, non_blocking=True),
            found.known.to(device, non_blocking=True),
        )

    def _read_pairs(self, rows: Tensor) -> PairVectors:
        """As :meth:`pair_vectors`, on the CPU; on the way to a GPU in half precision and page-locked memory."""
        distinct, index = distinct_rows(rows.cpu().numpy())  # pairs share the vectors of catalogue items
        counts = (distinct >= 0).sum(axis=1)
        parts = self._means(distinct, counts), torch.from_numpy(index), torch.from_numpy(counts > 0)
        if self.items.device.type == "cuda":
            parts = parts[0].pin_memory(), parts[1].pin_memory(), parts[2].pin_memory()
        return PairVectors(*parts)

    def _means(self, distinct: np.ndarray, counts: np.ndarray) -> Tensor:
        """Mean over the ``counts``, ``(V,)``, vectors of each of the ``distinct``, ``(V, K)``: shape ``(V, S)``."""
        known = distinct >= 0
        if distinct.shape[1] == 1:  # sorted: -1 comes first
            found = torch.from_numpy(self.pairs.read(distinct[known]))
            kind = torch.float32 if self.items.device.type == "cpu" else found.dtype
            single = torch.empty(len(distinct), self.width, dtype=kind)
            single[: len(distinct) - len(found)] = 0
            single[len(distinct) - len(found) :] = found
            return single
        total = torch.zeros(len(distinct), self.width)
        for column, there in zip(distinct.T, known.T, strict=True):
            vectors = torch.from_numpy(self.pairs.read(column[there])).float()
            total.index_add_(0, torch.from_numpy(np.flatnonzero(there)), vectors)
        return total / torch.from_numpy(np.maximum(counts, 1).astype(np.float32)).unsqueeze(1)


def read_text(
    config: Any, dataset: Any, options: HNLMOptions, interactions: TrainingInteractions, seed: int
) -> TextVectors:
    """Open, check and bind the artefacts of a run.

    Raises:
        FileNotFoundError: If there are none; the message says how to build them.
        ValueError: If they are damaged, belong to another split, or cover too few pairs.
    """
    reader, bound = _open(config, dataset, options)
    items, item_mask = _item_vectors(config, bound, options, seed)
    pairs: Any = None
    if options.reads_pair_vectors:
        _check_coverage(bound, dataset, options)
        pairs = bound
        if options.control != "none":
            control = options.control.removeprefix("pairs_")
            pairs = ControlledPairs(bound, reader.manifest.rows, items.shape[1], control, seed)
    counts = int(item_mask.sum()), len(item_mask) - 1, items.shape[1]
    logger.info("text vectors: %d items of %d, width %d, from %s", *counts, artefact_directory(config, options))
    users = _user_vectors(config, bound, options, seed)
    return TextVectors(items, item_mask, interactions, pairs, config["device"], users)


def item_text_of(config: Any, dataset: Any, options: HNLMOptions, seed: int) -> tuple[Tensor, Tensor]:
    """The items' text vectors of a run as training reads them, and which items have one, ``(N, S), (N,)``.

    Raises:
        FileNotFoundError: If there are no artefacts.
        ValueError: If they are damaged or belong to another split, or no item has text.
    """
    return _item_vectors(config, _open(config, dataset, options)[1], options, seed)


def _open(config: Any, dataset: Any, options: HNLMOptions) -> tuple[ArtefactReader, Any]:
    """The artefacts of a run, and the same bound to the dataset's ids."""
    directory = artefact_directory(config, options)
    reader = ArtefactReader.open(directory, str(config["dataset"]), pairs_hash=hash_of_training_pairs(dataset))
    return reader, reader.bind(dataset.field2id_token[dataset.uid_field], dataset.field2id_token[dataset.iid_field])


def _item_vectors(config: Any, bound: Any, options: HNLMOptions, seed: int) -> tuple[Tensor, Tensor]:
    """The items' vectors, under the run's control, and which there are."""
    vectors, mask = bound.item_text()
    if not mask.any():
        directory = artefact_directory(config, options)
        raise ValueError(f"no item of {config['dataset']!r} has a text vector in {directory}; check llm_text_fields")
    items, item_mask = torch.from_numpy(vectors).float(), torch.from_numpy(mask)
    return controlled(items, item_mask, options.item_control, torch.Generator().manual_seed(seed)), item_mask


def _user_vectors(config: Any, bound: Any, options: HNLMOptions, seed: int) -> tuple[Tensor, Tensor] | None:
    """Vectors of the users' own profiles, under the run's control, and which there are; None where items stand in."""
    if not options.reads_user_profiles:
        return None
    directory = artefact_directory(config, options)
    found = bound.user_text()
    if found is None:
        if options.user_text is not None:
            raise ValueError(
                f"hnlm_user_text=profiles, but the artefacts in {directory} have no vectors of users; train through "
                "run_recbole_hnlm, which adds them, or set hnlm_user_text=items"
            )
        logger.warning("the artefacts in %s have no vectors of users; the mean of a user's items stands in", directory)
        return None
    vectors, mask = (torch.from_numpy(array) for array in found)
    logger.info("text vectors of users: %d of %d, of their profiles", int(mask.sum()), len(mask) - 1)
    return controlled(vectors, mask, options.item_control, torch.Generator().manual_seed(seed + 1)), mask


def _check_coverage(bound: Any, dataset: Any, options: HNLMOptions) -> None:
    users, items = (dataset.inter_feat[field].numpy() for field in (dataset.uid_field, dataset.iid_field))
    coverage = bound.coverage(users, items)
    if coverage < options.min_coverage:
        raise ValueError(
            f"only {coverage:.1%} of the training pairs have a hard-negative vector, hnlm_min_coverage asks for "
            f"{options.min_coverage:.1%}; lower it, set hnlm_alpha: 0, or add --hnlm_rebuild=True once the "
            f"{(~bound.item_text()[1][1:]).sum()} items without text have some"
        )
    logger.info("hard-negative vectors cover %.1f %% of the training pairs", 100 * coverage)
