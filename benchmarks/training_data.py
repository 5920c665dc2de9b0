"""A split of yelp2018's size for the training benchmarks, and artefacts of text vectors for it.

The real split where it is there, else a power law of the same size. The vectors are random: a step takes as long
whatever they say.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from recbole.data import create_dataset
from synthetic import write_atomic

from recbole_hnlm.artefacts import ArtefactContents, Provenance, hash_pairs, write_artefact
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.models.text import training_pairs
from recbole_hnlm.options import LLMOptions

USERS, ITEMS, PAIRS = 31_668, 38_048, 1_237_259
"""Those of yelp2018's training and validation split."""
NAME = "yelp2018"


def folder_of_data(data_path: Path, work: Path) -> tuple[Path, str]:
    """A folder with ``yelp2018/`` in RecBole's fixed split, and where its pairs come from.

    Args:
        data_path: Where the real one may be.
        work: Where a stand-in is written, once.
    """
    if (data_path / NAME / f"{NAME}.train.inter").is_file():
        return data_path, "yelp2018, fixed split"
    home = work / NAME
    if not (home / f"{NAME}.test.inter").is_file():
        whole = write_atomic(home, PAIRS, n_users=USERS, n_items=ITEMS)
        head = whole.read_text(encoding="ascii").splitlines(keepends=True)[:1001]
        whole.rename(home / f"{NAME}.train.inter")
        for part in ("valid", "test"):  # never looked at
            (home / f"{NAME}.{part}.inter").write_text("".join(head), encoding="ascii")
    return work, "synthetic power law of yelp2018's size"


def settings(data_path: Path, work: Path, **values: Any) -> dict[str, Any]:
    """A configuration of one contestant."""
    return {
        "data_path": str(data_path), "benchmark_filename": ["train", "valid", "test"], "embedding_size": 64,
        "n_layers": 3, "train_batch_size": 2048, "learning_rate": 1e-3, "topk": [20], "metrics": ["Recall"],
        "valid_metric": "Recall@20", "show_progress": False, "state": "ERROR", "epochs": 1, "seed": 2020,
        "checkpoint_dir": str(work / "saved"), "load_col": {"inter": ["user_id", "item_id"]}, "use_gpu": False,
        "require_pow": False, "hnlm_artefact_dir": str(work / "artefacts"), **values,
    }  # fmt: skip


@cache
def training_split(data_path: Path, work: Path) -> Any:
    """The training split, read once."""
    config = HNLMConfig("BPR", NAME, config_dict=_plain(settings(data_path, work)))
    return create_dataset(config).build()[0]


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if not key.startswith("hnlm_")}


def ensure_vectors(data_path: Path, work: Path) -> None:
    """Write artefacts of random vectors, one of the catalogue's for each training pair."""
    if (work / "artefacts" / f"{NAME}.hnlm.json").is_file():
        return
    split, rng = training_split(data_path, work), np.random.default_rng(0)
    users, items = training_pairs(split)
    tokens = np.unique(users), np.sort(np.asarray(split.field2id_token["item_id"], dtype=str)[1:])
    vectors = rng.standard_normal((len(tokens[1]), LLMOptions.text_width), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    contents = ArtefactContents(
        user_tokens=tokens[0].tolist(),
        item_tokens=tokens[1].tolist(),
        pair_users=np.searchsorted(tokens[0], users),
        pair_items=np.searchsorted(tokens[1], items),
        neg_rows=rng.integers(0, len(tokens[1]), (len(users), 1)),
        neg_ids=tokens[1].tolist(),
        neg_vectors=vectors,
        item_vectors=vectors,
        item_profiles=["an item"] * len(tokens[1]),
        user_profiles=["a user"] * len(tokens[0]),
        pairs=len(users),
        pairs_hash=hash_pairs(users, items),
    )
    write_artefact(work / "artefacts", NAME, contents, Provenance(encoder="random"))
