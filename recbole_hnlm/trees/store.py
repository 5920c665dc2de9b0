"""Trees and scores on disk: arrays and a JSON file beside them, named by a hash of what they were made of.

Another training split, other options or other text vectors have another name, so nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recbole_hnlm.artefacts.storage import AtomicFile, hash_file, write_text
from recbole_hnlm.samplers.dtl import DualTreeOptions, DualTreeTables
from recbole_hnlm.samplers.false_negative_scores import FalseNegativeScores
from recbole_hnlm.samplers.interactions import TrainingInteractions
from recbole_hnlm.samplers.tree_codes import TreeCodes
from recbole_hnlm.trees.build import DualTrees

logger = logging.getLogger(__name__)

_VERSION = 1  # of what the same inputs are made into
JUDGE_TEMPLATE = "judge-1/false_negatives"
"""Prompt of ``properties/prompts/judge.yaml`` that judged scores were made with."""
_ARRAYS = ("collaborative", "semantic", "users", "items", "scores")


def fingerprint(
    seen: TrainingInteractions, options: DualTreeOptions, vectors: NDArray[np.float32] | None, extra: Mapping[str, Any]
) -> str:
    """Hash of all that decides trees and scores; options of training alone leave it as it is.

    Args:
        seen: The training pairs.
        options: The sampler's options.
        vectors: Text vectors of the items, or None without text.
        extra: Whatever else decides, such as who judges.
    """
    made_of = {
        "version": _VERSION, "n_users": seen.n_users, "n_items": seen.n_items, "model": options.reference_model,
        "epochs": options.reference_epochs, "seed": options.tree_seed, **extra,
    }  # fmt: skip
    digest = hashlib.sha256(json.dumps(made_of, sort_keys=True).encode())
    digest.update(seen.keys.cpu().numpy().tobytes())
    if vectors is not None:
        digest.update(np.ascontiguousarray(vectors, dtype=np.float32).tobytes())
    return digest.hexdigest()


def store_path(directory: Path, dataset: str, key: str) -> Path:
    """Where the arrays of a fingerprint lie; the JSON file has their name."""
    return directory / f"dual-trees-{dataset}-{key[:16]}.npz"


def write_dual_trees(path: Path, trees: DualTrees, key: str) -> None:
    """Keep trees and scores; whoever finds the JSON file finds whole arrays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(trees, name) for name in _ARRAYS})
    with AtomicFile(path) as file:
        file.write(buffer.getbuffer())
    content = {"fingerprint": key, "sha256": file.entry.sha256, "report": trees.report}
    write_text(path.with_suffix(".json"), [json.dumps(content, indent=1, sort_keys=True) + "\n"])


def read_dual_trees(path: Path, key: str) -> DualTrees | None:
    """What :func:`write_dual_trees` kept, or None where there is nothing, or, with a warning, nothing usable."""
    try:
        content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        if content["fingerprint"] != key:
            raise ValueError("it was made of other pairs or options")
        if content["sha256"] != hash_file(path):
            raise ValueError("its checksum is another")
        with np.load(path, allow_pickle=False) as stored:
            return DualTrees(**{name: stored[name] for name in _ARRAYS}, report=content["report"])
    except FileNotFoundError:
        return None
    except (ValueError, OSError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        logger.warning("%s cannot be used (%s), so trees and scores are made anew", path, error)
        return None


def tables_of(trees: DualTrees, n_items: int) -> DualTreeTables:
    """What the sampler reads."""
    codes = [TreeCodes(torch.from_numpy(paths)) for paths in (trees.collaborative, trees.semantic)]
    triples = [torch.from_numpy(column) for column in (trees.users, trees.items, trees.scores)]
    return DualTreeTables(codes[0], codes[1], FalseNegativeScores(triples[0], triples[1], triples[2], n_items))
