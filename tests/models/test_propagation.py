"""Fast propagation against RecBole's own operations: losses, gradients, recorded hops, and where it is left alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from recbole_runs import PROPAGATING, first_loss, made, write_dataset

from recbole_hnlm.models import node_contrast
from recbole_hnlm.models.contrast import contrast
from recbole_hnlm.models.mean_of_hops import column_blocks
from recbole_hnlm.models.node_contrast import contrast_methods
from recbole_hnlm.models.products import csr_matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def loss_and_gradients(folder: Path, model: Any, **values: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
    """Of the first batch, and the model."""
    instance, loaders, _ = made(folder, model, **values)
    loss = first_loss(instance, loaders)
    return loss, {key: p.grad for key, p in instance.named_parameters() if p.grad is not None}, instance


CASES = {
    "LightGCN": {},
    "SGL": {},
    "SGL, walks": {"type": "RW"},
    "SGL, nodes": {"type": "ND"},
    "NCL": {},
    "NCL, far hops": {"hyper_layers": 2, "n_layers": 2},
    "NGCF": {},
    "SimGCL": {},
    "SimGCL, one layer": {"n_layers": 1},
    "XSimGCL": {"layer_cl": 2},
}


@pytest.mark.parametrize("sampler", ["uniform", "mixgcf"])
@pytest.mark.parametrize("case", CASES)
def test_equal_to_1e_6(folder: Path, case: str, sampler: str) -> None:
    values = {**CASES[case], "neg_sampler": sampler}
    loss, gradients, model = loss_and_gradients(folder, case.split(",")[0], **values, fast_propagation=False)
    assert model.__dict__["_propagator"].products is None
    fast_loss, fast_gradients, model = loss_and_gradients(folder, case.split(",")[0], **values)
    assert any(copy is not None for _, copy in model.__dict__["_propagator"].products._copies.values())
    torch.testing.assert_close(fast_loss, loss, rtol=1e-6, atol=1e-7)
    assert gradients.keys() == fast_gradients.keys()
    for key, expected in gradients.items():
        scale = float(expected.abs().max())
        torch.testing.assert_close(fast_gradients[key], expected, rtol=1e-6, atol=1e-6 * scale, msg=key)


@pytest.mark.parametrize(("name", "method"), [("SGL", "calc_ssl_loss"), ("NCL", "ssl_layer_loss")])
def test_nodes_are_contrasted_once_each_and_as_recbole_does_where_it_is_asked_for(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, method: str
) -> None:
    anchors: list[tuple[int, float]] = []

    def watched(rows: torch.Tensor, *args: Any, counts: torch.Tensor) -> torch.Tensor:
        anchors.append((len(rows), float(counts.sum())))
        return contrast(rows, *args, counts=counts)

    monkeypatch.setattr(node_contrast, "contrast", watched)
    _, _, model = loss_and_gradients(folder, name, neg_sampler="uniform", fast_propagation=False)
    assert not anchors
    loss_and_gradients(folder, name, neg_sampler="recbole")
    assert not anchors
    loss_and_gradients(folder, name, neg_sampler="uniform")
    assert len(anchors) == 2  # users and items
    assert all(distinct < pairs for distinct, pairs in anchors)  # the batch names some nodes twice
    assert len({pairs for _, pairs in anchors}) == 1
    own = type(name, (model.hnlm_base,), {method: lambda self, *args: torch.zeros(())})
    assert method in contrast_methods(model.hnlm_base)
    assert contrast_methods(own) == {}
    assert contrast_methods(type("Heir", (model.hnlm_base,), {})) == contrast_methods(model.hnlm_base)


@pytest.mark.parametrize("name", ["DGCF", "SpectralCF"])
def test_where_rounding_grows_it_is_asked_for_and_as_exact_as_recboles(folder: Path, name: str) -> None:
    """Against double precision; the model's own gradients miss it by more than any order of summation."""
    *_, model = loss_and_gradients(folder, name, neg_sampler="uniform")
    assert model.__dict__["_propagator"].products is None
    _, gradients, _ = loss_and_gradients(folder, name, neg_sampler="uniform", fast_propagation=False)
    _, fast, model = loss_and_gradients(folder, name, neg_sampler="uniform", fast_propagation=True)
    assert any(copy is not None for _, copy in model.__dict__["_propagator"].products._copies.values())
    exact = exact_gradients(folder, name)
    for key, expected in exact.items():
        scale = float(expected.abs().max())
        error, own_error = (float((found[key] - expected).abs().max()) / scale for found in (fast, gradients))
        assert error < 2 * own_error + 1e-6, key


def exact_gradients(folder: Path, name: str) -> dict[str, torch.Tensor]:
    """In double precision by RecBole's own operations."""
    model, loaders, _ = made(folder, name, neg_sampler="uniform", fast_propagation=False)
    model.double()
    for key, value in vars(model).items():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            setattr(model, key, value.double())
    torch.set_default_dtype(torch.float64)
    try:
        first_loss(model, loaders)
    finally:
        torch.set_default_dtype(torch.float32)
    return {key: p.grad for key, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", PROPAGATING)
def test_evaluation_propagates_alike(folder: Path, name: str) -> None:
    scores = []
    for fast in (False, True):
        model, loaders, _ = made(folder, name, neg_sampler="uniform", fast_propagation=fast)
        model.eval()
        with torch.no_grad():
            scores.append(model.full_sort_predict(next(iter(loaders[2]))[0]))
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-5, atol=1e-6)


def test_only_constant_matrices_in_single_precision_have_a_copy() -> None:
    indices, values = torch.tensor([[0, 1, 1], [1, 0, 0]]), torch.tensor([1.0, 2.0, 3.0])  # one entry twice
    matrix = torch.sparse_coo_tensor(indices, values, (2, 3))
    copy = csr_matrix(matrix)
    assert copy is not None and copy.transposed is not copy.matrix
    dense = torch.randn(3, 2, requires_grad=True)
    result = copy.product(dense)
    torch.testing.assert_close(result, matrix.to_dense() @ dense)
    (gradient,) = torch.autograd.grad(result.sum(), dense)
    torch.testing.assert_close(gradient, matrix.to_dense().T @ torch.ones(2, 2))
    symmetric = csr_matrix(torch.sparse_coo_tensor(torch.tensor([[0, 1], [1, 0]]), torch.ones(2), (2, 2)))
    assert symmetric is not None and symmetric.transposed is symmetric.matrix
    assert csr_matrix(matrix.double()) is None
    assert csr_matrix(matrix.clone().requires_grad_()) is None
    assert csr_matrix(torch.ones(2, 2)) is None


@pytest.mark.parametrize(("rows", "width"), [(10, 64), (70_000, 64), (70_000, 50), (10_000_000, 8), (0, 4)])
def test_blocks_cover_every_column_once(rows: int, width: int) -> None:
    covered = [column for block in column_blocks(rows, width, torch.device("cpu")) for column in range(width)[block]]
    assert covered == list(range(width))
