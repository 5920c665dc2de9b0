"""The table that stands in for a sparse gradient, step after step."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from recbole_hnlm.models.row_gradients import GradientTable


@pytest.fixture
def module() -> nn.Embedding:
    torch.manual_seed(0)
    embedding = nn.Embedding(6, 3, sparse=True)
    embedding.weight.register_post_accumulate_grad_hook(GradientTable())
    return embedding


def backward(module: nn.Embedding, *lookups: list[int]) -> Tensor:
    """Gradient of a sum of lookups; RecBole's trainer drops the last one before."""
    sum((module(torch.tensor(ids)).square().sum() for ids in lookups), torch.zeros(())).backward()
    assert module.weight.grad is not None
    return module.weight.grad


def expected(module: nn.Embedding, *lookups: list[int]) -> Tensor:
    counts = torch.bincount(torch.tensor([row for ids in lookups for row in ids]), minlength=6)
    return 2 * module.weight.detach() * counts.unsqueeze(1)


def test_equals_the_dense_gradient_in_every_step_and_keeps_its_memory(module: nn.Embedding) -> None:
    memory = set()
    for lookups in ([[1, 2, 2], [5]], [[3], [3, 3]], [[0, 1, 2, 3, 4, 5]], [[4]]):
        module.zero_grad()
        gradient = backward(module, *lookups)
        assert not gradient.is_sparse
        torch.testing.assert_close(gradient, expected(module, *lookups))
        memory.add(gradient.data_ptr())
    assert len(memory) == 1


def test_gradients_of_two_backward_passes_add_up_and_the_next_step_starts_anew(module: nn.Embedding) -> None:
    backward(module, [1, 2])
    torch.testing.assert_close(backward(module, [2, 4]), expected(module, [1, 2, 2, 4]))
    module.zero_grad()
    torch.testing.assert_close(backward(module, [5]), expected(module, [5]))


def test_a_dense_use_of_the_weight_beside_lookups_is_counted(module: nn.Embedding) -> None:
    for _ in range(2):
        module.zero_grad()
        (module(torch.tensor([1])).sum() + module.weight.sum()).backward()
        assert module.weight.grad is not None
        counts = torch.tensor([1.0, 2, 1, 1, 1, 1])
        torch.testing.assert_close(module.weight.grad, counts.unsqueeze(1).expand(6, 3))
        module.zero_grad()
        torch.testing.assert_close(backward(module, [0]), expected(module, [0]))


def test_a_scaled_gradient_leaves_nothing_behind(module: nn.Embedding) -> None:
    backward(module, [1, 2]).mul_(100)  # as clipping does
    module.zero_grad()
    torch.testing.assert_close(backward(module, [3]), expected(module, [3]))


def test_a_copy_has_a_table_of_its_own() -> None:
    hook = GradientTable()
    weight = nn.Parameter(torch.ones(2, 2))
    weight.grad = torch.sparse_coo_tensor(torch.tensor([[1]]), torch.ones(1, 2), (2, 2))
    hook(weight)
    assert hook._table is weight.grad and copy.deepcopy(hook)._table is None
