"""What users wrote at the training pairs, out of the dataset's ``.inter`` file, and how a manifest tells of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts.storage import hash_file
from recbole_hnlm.config import encoding_of
from recbole_hnlm.llm.reviews import read_reviews
from recbole_hnlm.llm.source_text import reviews_digest
from recbole_hnlm.models.text import training_pairs
from recbole_hnlm.run_options import RunOptions


def review_file(config: Any) -> Path:
    """Where the training pairs with their reviews are, or would be."""
    split = config["benchmark_filename"]
    return Path(config["data_path"]) / f"{config['dataset']}{f'.{split[0]}' if split else ''}.inter"


def training_reviews(config: Any, dataset: Any, pairs: tuple[list[str], list[str]]) -> list[str] | None:
    """The review of each of the training ``pairs``, ``""`` for none; None where the dataset has no reviews."""
    path, keys = review_file(config), (str(dataset.uid_field), str(dataset.iid_field))
    if not path.is_file():
        return None
    return read_reviews(path, pairs, keys, separator=config["field_separator"], encoding=encoding_of(config))


def reviews_told(config: Any, dataset: Any, run: RunOptions) -> dict[str, dict[str, str]]:
    """What a manifest records beside item and user file where a chat model is told of reviews; else nothing."""
    if run.chat is None or not run.chat.text.reviews:
        return {}
    path = review_file(config)
    return {"inter": {"file": hash_file(path), "text": text_of_reviews(config, dataset)} if path.is_file() else {}}


def text_of_reviews(config: Any, dataset: Any) -> str:
    """Digest of the training pairs' reviews, ``""`` for none."""
    users, items = (tokens.tolist() for tokens in training_pairs(dataset))
    return reviews_digest(users, items, training_reviews(config, dataset, (users, items)))
