"""The graphs are RecBole's own to the last bit: indices, values, dtype, order, coalesced or not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.utils import get_model, init_seed
from recbole_runs import settings, write_dataset
from torch import Tensor

from recbole_hnlm import hnlm
from recbole_hnlm.models.adjacency import InteractionGraph, distinct_pairs, vectorised_methods

GRAPHS = {
    "LightGCN": ("norm_adj_matrix",),
    "NGCF": ("norm_adj_matrix", "eye_matrix"),
    "NCL": ("norm_adj_mat", "diag"),
    "GCMC": ("Graph", "user_features", "item_features"),
    "SpectralCF": ("A_hat",),
}
METHODS = {
    "LightGCN": {"get_norm_adj_mat"},
    "NGCF": {"get_norm_adj_mat", "get_eye_mat"},
    "NCL": {"get_norm_adj_mat"},
    "GCMC": {"get_norm_adj_mat", "get_sparse_eye_mat"},
    "SpectralCF": {"get_laplacian_matrix", "get_eye_mat"},
}


class Interactions:
    """As much of a RecBole dataset as these models' constructors ask for."""

    def __init__(self, users: np.ndarray, items: np.ndarray, n_users: int, n_items: int) -> None:
        self.users, self.items, self.counts = users, items, {"user_id": n_users, "item_id": n_items}

    def num(self, field: str) -> int:
        return self.counts[field]

    def inter_matrix(self, form: str) -> sp.coo_matrix:
        assert form == "coo"
        shape = (self.counts["user_id"], self.counts["item_id"])
        return sp.coo_matrix((np.ones(len(self.users)), (self.users, self.items)), shape=shape)


def config(folder: Path, name: str, dataset: str = "tiny", **values: Any) -> Config:
    return Config(name, dataset, config_dict=settings(folder, name, **values))


def same(ours: Tensor, theirs: Tensor) -> None:
    """Equal to the last bit, and in the same order."""
    assert ours.layout is theirs.layout and ours.dtype is theirs.dtype and ours.shape == theirs.shape
    assert ours.requires_grad == theirs.requires_grad
    if theirs.layout is not torch.sparse_coo:
        assert torch.equal(ours, theirs)
        return
    assert ours.is_coalesced() == theirs.is_coalesced()
    assert torch.equal(ours._indices(), theirs._indices())
    assert ours._indices().dtype is theirs._indices().dtype
    assert torch.equal(ours._values().view(torch.int32), theirs._values().view(torch.int32))


def both(name: str, config: Any, dataset: Any) -> tuple[Any, Any]:
    """RecBole's model and ours over the same data and random state."""
    base = get_model(name)
    made = []
    for model_class in (base, hnlm(base)):
        init_seed(3, True)
        made.append(model_class(config, dataset))
    return made[0], made[1]


def compare(name: str, config: Any, dataset: Any) -> None:
    theirs, ours = both(name, config, dataset)
    for attribute in GRAPHS[name]:
        same(getattr(ours, attribute), getattr(theirs, attribute))
    for (key, expected), (other, actual) in zip(theirs.state_dict().items(), ours.state_dict().items(), strict=True):
        assert key == other and torch.equal(expected, actual), key


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"), text=False)


@pytest.fixture(scope="module")
def ml_100k(folder: Path) -> Any:
    """The training split of the MovieLens data that RecBole brings along."""
    import recbole

    source = Path(recbole.__file__).parent / "dataset_example"
    values = {"data_path": str(source), "load_col": {"inter": ["user_id", "item_id"]}}
    loaded = config(folder, "LightGCN", "ml-100k", **values)
    return values, data_preparation(loaded, create_dataset(loaded))[0]._dataset


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_graphs_on_ml_100k_are_recboles(folder: Path, ml_100k: Any, name: str) -> None:
    values, dataset = ml_100k
    assert dataset.inter_num > 70_000
    compare(name, config(folder, name, "ml-100k", **values), dataset)


@pytest.mark.parametrize("repeated", [0, 300])
@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_graphs_of_shuffled_and_repeated_pairs_are_recboles(folder: Path, name: str, repeated: int) -> None:
    rng = np.random.default_rng(5)
    keys = rng.choice(40 * 50, 700, replace=False)
    keys = rng.permutation(np.concatenate([keys, rng.choice(keys, repeated)]))
    users, items = divmod(keys, 50)  # the last ids and the padding have no edges
    compare(name, config(folder, name), Interactions(users + 1, items + 1, 45, 60))


@pytest.mark.parametrize("name", sorted(GRAPHS))
def test_the_fast_methods_are_the_ones_that_run(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("RecBole's dictionary")

    monkeypatch.setattr("scipy.sparse.dok_matrix", refuse)
    data = Interactions(np.array([1, 2, 2]), np.array([1, 1, 2]), 3, 3)
    hnlm(get_model(name))(config(folder, name), data)
    with pytest.raises(AssertionError, match="dictionary"):
        get_model(name)(config(folder, name), data)


def test_only_recboles_own_methods_are_replaced() -> None:
    for name, methods in METHODS.items():
        base = get_model(name)
        assert set(vectorised_methods(base)) == methods
        assert set(vectorised_methods(type("Heir", (base,), {}))) == methods
        own = type(name, (base,), dict.fromkeys(methods, lambda self: None))
        assert vectorised_methods(own) == {}
    for name in ("BPR", "SGL", "DGCF", "LINE", "SimpleX"):
        assert vectorised_methods(get_model(name)) == {}
    assert not hasattr(hnlm(get_model("BPR")), "get_norm_adj_mat")


def test_repeated_pairs_keep_their_first_place() -> None:
    matrix = sp.coo_matrix((np.ones(6), ([2, 0, 2, 1, 0, 2], [1, 3, 1, 0, 3, 0])), shape=(3, 4))
    rows, columns = distinct_pairs(matrix)
    assert list(zip(rows.tolist(), columns.tolist(), strict=True)) == [(2, 1), (0, 3), (1, 0), (2, 0)]
    graph = InteractionGraph(matrix)
    assert graph.degrees.tolist() == [1, 1, 2, 2, 1, 0, 1]
    weighted = graph.scaled(np.arange(7.0), np.arange(7.0) * 10)
    expected = [(0, 6, 0), (1, 3, 30), (2, 4, 80), (2, 3, 60), (3, 1, 30), (3, 2, 60), (4, 2, 80), (6, 0, 0)]
    assert weighted._indices().T.tolist() == [[row, column] for row, column, _ in expected]
    assert weighted._values().tolist() == [value for *_, value in expected]
