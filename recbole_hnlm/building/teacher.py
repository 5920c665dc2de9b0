"""The teacher: a MixGCF-trained model whose rule names each training pair's hard negatives (HNLMRec)."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.utils import get_model, get_trainer, init_seed
from torch import Tensor
from tqdm import tqdm

from recbole_hnlm.artefacts.storage import AtomicFile
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.model_lookup import find_model
from recbole_hnlm.models import hnlm, refusal
from recbole_hnlm.models.attaching import interactions_of
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.imports import known_by
from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.samplers.candidates import UniformCandidates
from recbole_hnlm.training.loader import PairLoader
from recbole_hnlm.training.watching import watching

logger = logging.getLogger(__name__)

_DRAWN = 131_072  # candidates that are drawn at a time
_GATHER = 4  # a gathered score costs about as much as so many of a matrix product
_FIXED: dict[str, Any] = {
    "neg_sampler": "mixgcf", "embedding_size": 64, "learning_rate": 0.001, "train_batch_size": 2048,
    "show_progress": False,
}  # fmt: skip
_SHARED = (
    "USER_ID_FIELD", "ITEM_ID_FIELD", "RATING_FIELD", "TIME_FIELD", "LABEL_FIELD", "NEG_PREFIX",
    "ITEM_LIST_LENGTH_FIELD", "LIST_SUFFIX", "checkpoint_dir", "use_gpu", "gpu_id", "worker",
)  # fmt: skip


@dataclass(frozen=True)
class TeacherResult:
    """What the offline part takes from the teacher.

    Attributes:
        negatives: Internal ids of each pair's hard negatives, best first, shape ``(E, K)``.
        user_vectors: The teacher's user rows, shape ``(n_users, D)``.
        item_vectors: The teacher's item rows, shape ``(n_items, D)``.
        description: What made them, for the manifest.
    """

    negatives: np.ndarray
    user_vectors: np.ndarray
    item_vectors: np.ndarray
    description: dict[str, Any]


def hard_negatives(
    user_rows: Tensor, item_rows: Tensor, pairs: TrainingInteractions, users: Tensor, items: Tensor, options: LLMOptions
) -> Tensor:
    """For each pair the items that MixGCF's rule picks most often over seeded draws, best first.

    Ties go to the higher score. One draw takes ``draw_candidates`` unseen items and keeps the one with the highest
    inner product with the user; mixing with the positive by a share common to all candidates does not change which one
    that is. A pair gets one item and not one for every hop, so the rule is applied to the teacher's final rows.

    Args:
        user_rows: Final user table of the teacher.
        item_rows: Final item table.
        pairs: Training pairs.
        users: User ids of the pairs wanted, shape ``(E,)``.
        items: Item ids of the pairs wanted, shape ``(E,)``.
        options: Draws, candidates, negatives kept and seed.

    Returns:
        Item ids, shape ``(E, K)``; where fewer than ``K`` different items were picked, the best is repeated.
    """
    generator = torch.Generator(device=user_rows.device).manual_seed(options.seed)
    drawer = UniformCandidates(pairs, generator)
    kept = torch.empty(users.numel(), options.negatives_per_pair, dtype=torch.long)
    step = max(_DRAWN // options.draw_candidates, 1)
    dense = _GATHER * options.teacher_draws * options.draw_candidates > item_rows.shape[0]
    for start in range(0, users.numel(), step):
        block = users[start : start + step]
        table = user_rows[block] @ item_rows.T if dense else None  # (b, n_items), for all draws
        winners = torch.empty(block.numel(), options.teacher_draws, dtype=torch.long, device=block.device)
        scores = torch.empty(winners.shape, device=block.device)
        for draw in range(options.teacher_draws):
            candidates = drawer.draw(block, options.draw_candidates)
            if table is not None:
                cand_scores = table.gather(1, candidates)
            else:
                rows = item_rows.index_select(0, candidates.reshape(-1)).view(*candidates.shape, -1)
                cand_scores = torch.bmm(rows, user_rows[block].unsqueeze(2)).squeeze(2)
            best = cand_scores.max(dim=1)
            scores[:, draw] = best.values
            winners[:, draw] = candidates.gather(1, best.indices.unsqueeze(1)).squeeze(1)
        kept[start : start + block.numel()] = _most_picked(winners, scores, options.negatives_per_pair).cpu()
    return kept


def _most_picked(winners: Tensor, scores: Tensor, count: int) -> Tensor:
    """The ``count`` most frequent winners per row, ties by score, shape ``(B, count)``."""
    times = (winners.unsqueeze(2) == winners.unsqueeze(1)).sum(dim=2)  # (B, R): how often each draw's winner won
    by_score = scores.argsort(dim=1, descending=True, stable=True)
    by_times = times.gather(1, by_score).argsort(dim=1, descending=True, stable=True)
    winners = winners.gather(1, by_score.gather(1, by_times))
    first = torch.ones_like(winners, dtype=torch.bool)
    for column in range(1, winners.shape[1]):
        first[:, column] = (winners[:, :column] != winners[:, column : column + 1]).all(dim=1)
    place = first.int().argsort(dim=1, descending=True, stable=True)[:, :count]
    chosen = winners.gather(1, place)
    return torch.where(first.gather(1, place), chosen, chosen[:, :1])


def teacher_class(options: LLMOptions, key: str = "llm_teacher_model") -> type:
    """The teacher's model class.

    Args:
        options: Options that name it.
        key: What messages call the option.

    Raises:
        ValueError: If there is no such model, or it cannot serve as a teacher.
    """
    name = options.teacher_model
    try:
        found = find_model(name)
        found = get_model(found) if isinstance(found, str) else found
    except (ValueError, ImportError, AttributeError) as error:
        raise ValueError(f"{key}={name!r} is no model of RecBole's or ours; use LightGCN or BPR") from error
    reason = refusal(found) or (f"{name} needs a trainer of its own" if hasattr(found, "e_step") else None)
    if reason is not None:
        raise ValueError(f"{key}={name!r} cannot teach: {reason}; use LightGCN or BPR")
    return found


def train_teacher(config: Any, train_data: Any, options: LLMOptions, cache: Path) -> TeacherResult:
    """Train the teacher on the training split, or read it back where the same one was trained before.

    Args:
        config: The run's configuration; the teacher shares its dataset, device and seed.
        train_data: A loader over the training split, whose dataset is used.
        options: The offline part's options.
        cache: Folder for the trained tables.

    Returns:
        Hard negatives of every training pair in the split's order.
    """
    dataset = train_data._dataset
    users, items = dataset.inter_feat[dataset.uid_field], dataset.inter_feat[dataset.iid_field]
    tables = teacher_tables(config, dataset, options, cache)
    device = torch.device(config["device"])
    user_rows, item_rows = (torch.from_numpy(table).to(device) for table in tables)
    pairs = interactions_of(dataset, device)
    negatives = hard_negatives(user_rows, item_rows, pairs, users.to(device), items.to(device), options)
    description = {**_description(options), "draw_candidates": options.draw_candidates}
    return TeacherResult(negatives.numpy(), *tables, description)


def teacher_tables(
    config: Any, dataset: Any, options: LLMOptions, cache: Path, key: str = "llm_teacher_model"
) -> tuple[np.ndarray, np.ndarray]:
    """Final user and item tables of a teacher of ``dataset``'s pairs, trained or read back from ``cache``.

    Raises:
        ValueError: If the model, which messages call by ``key``, does not score by inner product.
    """
    path = cache / f"teacher-{_fingerprint(_description(options), dataset)[:16]}.npz"
    tables = _cached_tables(path)
    if tables is None:
        tables = _fit(config, dataset, options, key)
        _store_tables(path, tables)
    return tables


def _description(options: LLMOptions) -> dict[str, Any]:
    return {
        "model": known_by(options.teacher_model), "epochs": options.teacher_epochs, "sampler": "mixgcf",
        "candidates": options.teacher_candidates, "draws": options.teacher_draws, "seed": options.seed,
    }  # fmt: skip


def _fit(config: Any, dataset: Any, options: LLMOptions, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Train, and return the final user and item tables."""
    values = {key: config[key] for key in _SHARED if config[key] is not None}
    values.update(_FIXED, epochs=options.teacher_epochs, neg_sampler_candidates=options.teacher_candidates)
    values.update(seed=options.seed, data_path=str(Path(config["data_path"]).parent))
    teacher_config = _WithoutCommandLine(options.teacher_model, str(config["dataset"]), config_dict=values)
    init_seed(options.seed, True)
    model_class = hnlm(teacher_class(options, key))
    model: Any = model_class(teacher_config, dataset).to(teacher_config["device"])
    loader = PairLoader(teacher_config, dataset, teacher_config.run, shuffle=teacher_config["shuffle"])
    trainer = watching(get_trainer(teacher_config["MODEL_TYPE"], teacher_config["model"]))(teacher_config, model)
    if not model.hnlm_view().has_user_rows:
        raise ValueError(f"{key}={options.teacher_model} does not score by inner product; use LightGCN or BPR")
    epochs = range(options.teacher_epochs)
    for epoch in tqdm(epochs, desc=f"Teacher {options.teacher_model}", disable=not config["show_progress"]):
        loss = trainer._train_epoch(loader, epoch)
    logger.info("teacher %s trained for %d epochs, last loss %.4f", options.teacher_model, options.teacher_epochs, loss)
    model.eval()
    with torch.no_grad():
        view = model.hnlm_view()
        user_ids = torch.arange(model.n_users, device=teacher_config["device"])
        item_ids = torch.arange(model.n_items, device=teacher_config["device"])
        tables = view.user_rows(user_ids).cpu().numpy(), view.item_rows(item_ids).cpu().numpy()
    return tables


class _WithoutCommandLine(HNLMConfig):
    """A configuration that is no business of the command line's."""

    def _load_cmd_line(self) -> dict[str, Any]:
        return {}


def _fingerprint(description: dict[str, Any], dataset: Any) -> str:
    made_of = {**description, **_FIXED, "n_users": dataset.user_num, "n_items": dataset.item_num}
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    for field in (dataset.uid_field, dataset.iid_field):
        digest.update(dataset.inter_feat[field].numpy().tobytes())
    return digest.hexdigest()


def _cached_tables(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    if not path.is_file():
        return None
    try:
        with np.load(path) as stored:
            tables = stored["users"], stored["items"]
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("cached teacher %s cannot be read (%s) and is trained anew", path, error)
        return None
    logger.info("teacher read from %s", path)
    return tables


def _store_tables(path: Path, tables: tuple[np.ndarray, np.ndarray]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, users=tables[0], items=tables[1])
    with AtomicFile(path) as file:
        file.write(buffer.getbuffer())
