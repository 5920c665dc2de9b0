"""What is kept on disk: the same back, nothing of other pairs or options, and damaged files are made anew."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.samplers.dtl import DualTreeOptions
from recbole_hnlm.trees.build import DualTrees
from recbole_hnlm.trees.store import fingerprint, read_dual_trees, store_path, tables_of, write_dual_trees

KEY = "a" * 64


def some_trees() -> DualTrees:
    codes = np.array([[-1, -1], [0, 1], [1, -1]], dtype=np.int8)
    users, items = np.array([1, 2]), np.array([2, 1])
    return DualTrees(codes, codes[:, :1], users, items, np.array([0.25, 0.5], dtype=np.float32), {"AUC": 0.7})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = store_path(tmp_path / "cache", "tiny", KEY)
    write_dual_trees(path, some_trees(), KEY)
    return path


def test_the_same_comes_back(path: Path) -> None:
    found = read_dual_trees(path, KEY)
    assert found is not None and found.report == {"AUC": 0.7}
    for name in ("collaborative", "semantic", "users", "items", "scores"):
        assert np.array_equal(getattr(found, name), getattr(some_trees(), name))
        assert getattr(found, name).dtype == getattr(some_trees(), name).dtype
    scores = tables_of(found, n_items=3).scores
    assert scores.of(torch.tensor([1, 2]), torch.tensor([[1, 2], [1, 2]])).tolist() == [[0.0, 0.25], [0.5, 0.0]]


def test_nothing_there_is_no_fault(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_dual_trees(tmp_path / "none.npz", KEY) is None and not caplog.text


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def half_a_json(path: Path) -> None:
    truncate(path.with_suffix(".json"))


def without_a_checksum(path: Path) -> None:
    path.with_suffix(".json").write_text(json.dumps({"fingerprint": KEY, "report": {}}))


@pytest.mark.parametrize("damage", [truncate, flip, half_a_json, without_a_checksum])
def test_damage_is_told_and_not_read(
    path: Path, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    damage(path)
    assert read_dual_trees(path, KEY) is None
    assert f"{path} cannot be used" in caplog.text and "made anew" in caplog.text


def test_a_file_of_another_origin_under_this_name(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert read_dual_trees(path, "a" * 16 + "b" * 48) is None
    assert "it was made of other pairs or options" in caplog.text


def seen(*pairs: tuple[int, int]) -> TrainingInteractions:
    users, items = torch.tensor(pairs).T
    return TrainingInteractions(users, items, 4, 5)


BASE: tuple[Any, ...] = (seen((1, 1), (2, 2)), DualTreeOptions(), None, {})


@pytest.mark.parametrize(
    "changed",
    [
        (seen((1, 1), (2, 3)), *BASE[1:]),
        (BASE[0], DualTreeOptions(reference_epochs=3), None, {}),
        (BASE[0], DualTreeOptions(reference_model="BPR"), None, {}),
        (BASE[0], DualTreeOptions(tree_seed=1), None, {}),
        (*BASE[:2], np.zeros((5, 2), dtype=np.float32), {}),
        (*BASE[:3], {"judge": "llm"}),
    ],
    ids=["pairs", "epochs", "model", "seed", "text", "judge"],
)
def test_what_decides_the_content_decides_the_name(changed: tuple[Any, ...]) -> None:
    assert fingerprint(*changed) != fingerprint(*BASE)


def test_what_is_of_training_alone_does_not() -> None:
    options = DualTreeOptions(candidates=4, mix=0.5, policy="downweight", suspect_share=0.3, semantic_weight=0.0)
    assert fingerprint(seen((2, 2), (1, 1), (1, 1)), options, None, {}) == fingerprint(*BASE)
