"""What a freshly constructed model is tried for before it is trusted: which tables it returns, how it scores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from recbole_hnlm.models.features import SideFeatures

_PAIRS = 16
_SEED = 2020


@contextmanager
def _moved(model: nn.Module, kept: list[nn.Embedding]) -> Iterator[None]:
    """All parameters but the named tables away from their start, where many are 0 and say nothing: a bias, say."""
    tables = {id(module.weight) for module in kept}
    others = [p for p in model.parameters() if id(p) not in tables and p.is_floating_point()]
    before = [parameter.detach().clone() for parameter in others]
    try:
        for parameter in others:
            parameter.add_(torch.rand_like(parameter), alpha=0.1)
        yield
    finally:
        for parameter, values in zip(others, before, strict=True):
            parameter.copy_(values)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Every part's mark of evaluation, without ``train()``, by which some sample a graph anew."""
    training = [module for module in model.modules() if module.training]
    try:
        for module in training:
            module.training = False
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def _trial(model: nn.Module, kept: list[nn.Embedding]) -> Iterator[None]:
    """No gradients, and global random state, parameters and what the model caches as before at the end."""
    device, cached = next(model.parameters()).device, dict(vars(model))
    devices = [device] if device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices=devices), _evaluating(model), _moved(model, kept):
        yield
    vars(model).update(cached)


def _scores(model: Any, features: SideFeatures, ids: Tensor) -> Tensor:
    """What the model gives the pairs of user and item of the same number."""
    try:
        scores: Tensor = model.predict(features.batch(ids, ids))
    except NotImplementedError:  # RecBole's own stand-in: full evaluation asks for no predict
        scores = model.full_sort_predict(features.batch(ids, ids)).view(ids.numel(), -1)[ids, ids]
    return scores.reshape(-1)


def _same(actual: Tensor, expected: Tensor) -> bool:
    scale = float(expected.abs().max())
    return (
        scale > 0 and actual.shape == expected.shape and torch.allclose(actual, expected, rtol=1e-4, atol=scale * 1e-5)
    )


def _ids(model: Any) -> Tensor:
    count = min(_PAIRS, model.n_users, model.n_items)
    return torch.arange(count, device=next(model.parameters()).device)


def ranks_by_tables(
    model: Any, base: Any, args: tuple[Any, ...], features: SideFeatures, embeddings: list[nn.Embedding]
) -> bool:
    """Whether ``forward(*args)`` returns a table of users and one of items whose inner products are the scores.

    Args:
        model: The model.
        base: The class whose ``forward`` is asked.
        args: What its main propagation takes.
        features: What ``predict`` may read beside ids.
        embeddings: Its tables, left where they are.
    """
    ids = _ids(model)
    with _trial(model, embeddings):
        torch.manual_seed(_SEED)  # dropout, which some never switch off, must strike both times alike
        tables = base.forward(model, *args)
        if not isinstance(tables, tuple | list) or len(tables) < 2 or not all(map(torch.is_tensor, tables[:2])):
            return False
        users, items = tables[:2]
        if users.dim() != 2 or users.shape[0] != model.n_users or items.shape != (model.n_items, users.shape[1]):
            return False
        torch.manual_seed(_SEED)
        return _same(_scores(model, features, ids), (users[ids] * items[ids]).sum(dim=1))


def scores_by_inner_product(model: Any, users: list[nn.Embedding], items: list[nn.Embedding], features: Any) -> bool:
    """Whether ``predict`` is the inner product of one user and one item embedding, tried on a few pairs."""
    widths = {module.embedding_dim for module in (*users, *items)}
    if len(users) != 1 or len(items) != 1 or len(widths) != 1:
        return False
    ids = _ids(model)
    with _trial(model, [*users, *items]):
        return _same(_scores(model, features, ids), (users[0].weight[ids] * items[0].weight[ids]).sum(dim=1))
