"""SimGCL and XSimGCL against loops in float64, their noise, their options, and runs through every door."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole_runs import first_loss, made, settings, write_dataset
from torch import Tensor
from torch.nn import functional

import recbole_hnlm
from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.export import export_checkpoint, plain_state
from recbole_hnlm.graph_models.noise import SignedNoise, contrast

NAMES = ("SimGCL", "XSimGCL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def _cosine(a: Tensor, b: Tensor) -> float:
    return float(functional.cosine_similarity(a, b, dim=0))


def test_contrast_is_a_loop_over_the_distinct_nodes() -> None:
    one, other = (torch.randn(6, 3, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    nodes, total = [1, 3, 4], 0.0
    for a in nodes:
        total -= float(
            torch.tensor([_cosine(one[a], other[b]) / 0.3 for b in nodes]).log_softmax(dim=0)[nodes.index(a)]
        )
    assert contrast(one, other, torch.tensor([3, 1, 3, 4, 1]), 0.3).item() == pytest.approx(total / 3, rel=1e-6)
    assert contrast(one, other, torch.tensor([2]), 0.3).item() == 0.0


def test_noise_has_the_length_and_the_signs_it_should_and_leaves_global_state_alone() -> None:
    rows = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    noise, state = SignedNoise(0.3, 7, torch.device("cpu")), torch.get_rng_state()
    moved = noise(rows)
    assert torch.equal(torch.get_rng_state(), state)
    torch.testing.assert_close((moved - rows).norm(dim=1), torch.full((50,), 0.3))
    assert bool((((moved - rows) * rows) >= 0).all())
    assert not torch.equal(noise(rows), moved)
    assert torch.equal(SignedNoise(0.3, 7, torch.device("cpu"))(rows), moved)
    assert not torch.equal(SignedNoise(0.3, 7, torch.device("cpu"), rank=1)(rows), moved)
    assert torch.equal(SignedNoise(0.0, 7, torch.device("cpu"))(rows), rows)


@pytest.mark.parametrize("name", NAMES)
def test_noise_and_negatives_are_drawn_apart(folder: Path, name: str) -> None:
    model, _, _ = made(folder, name, neg_sampler="dns")
    draws = [torch.rand(8, generator=one.generator) for one in (model.noise, model.hnlm.sampler)]
    assert not torch.equal(*draws)


def _means(model: Any, noisy: bool) -> tuple[Tensor, Tensor]:
    """The mean of hops 1 to L, and the first hop, by dense products in float64 (noise in the model's own precision)."""
    matrix, rows, hops = model.norm_adj_matrix.to_dense().double(), model.get_ego_embeddings().double(), []
    for _ in range(model.n_layers):
        rows = matrix @ rows
        if noisy:
            drawn = torch.rand(rows.shape, generator=model.noise.generator).double()
            rows = rows + rows.sign() * drawn / drawn.norm(dim=1, keepdim=True) * model.noise.eps
        hops.append(rows)
    return sum(hops) / len(hops), hops[0]  # type: ignore[return-value]


def _contrasts(model: Any, one: Tensor, other: Tensor, batch: Any) -> float:
    total = 0.0
    for ids, offset in ((batch["user_id"], 0), (batch["item_id"], model.n_users)):
        nodes = [offset + node for node in sorted(set(ids.tolist()))]
        for a in nodes:
            logits = torch.tensor([_cosine(one[a], other[b]) / model.temperature for b in nodes], dtype=torch.float64)
            total -= float(logits.log_softmax(dim=0)[nodes.index(a)]) / len(nodes)
    return total


@pytest.mark.parametrize("sampler", ["none", "uniform"])
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_loss_is_that_of_a_loop(folder: Path, name: str, sampler: str) -> None:
    values = {"lambda": 0.7, "eps": 0.1, "temperature": 0.3, "n_layers": 3, "reg_weight": 0.01}
    model, loaders, _ = made(folder, name, neg_sampler=sampler, train_batch_size=16, **values)
    batch = next(iter(loaders[0]))
    noise, draws = model.noise.generator.get_state(), getattr(model, "hnlm", None)
    if draws is not None:
        state = draws.generator.get_state()
        negatives = draws.draw(batch["user_id"], batch["item_id"], model.hnlm_view()).ids.squeeze(1)
        draws.generator.set_state(state)
    else:
        negatives = batch["neg_item_id"]
    model.noise.generator.set_state(noise)
    with torch.no_grad():
        loss = float(model.calculate_loss(batch))
        model.noise.generator.set_state(noise)
        if name == "SimGCL":
            table, _ = _means(model, noisy=False)
            one, other = (_means(model, noisy=True)[0] for _ in range(2))
        else:
            table, layer = _means(model, noisy=True)
            one, other = table, layer
        users, items = table[: model.n_users], table[model.n_users :]
        rows = [users[batch["user_id"]], items[batch["item_id"]], items[negatives]]
        ranking = functional.softplus((rows[0] * (rows[2] - rows[1])).sum(dim=1)).mean()
        ego = [
            model.user_embedding(batch["user_id"]),
            model.item_embedding(batch["item_id"]),
            model.item_embedding(negatives),
        ]
        norms = sum(float(part.norm()) for part in ego) / len(ego[0])
        expected = float(ranking) + 0.01 * norms + 0.7 * _contrasts(model, one, other, batch)
    assert loss == pytest.approx(expected, rel=2e-5)


@pytest.mark.parametrize("name", NAMES)
def test_ranking_in_evaluation_has_no_noise(folder: Path, name: str) -> None:
    model, loaders, _ = made(folder, name, neg_sampler="uniform")
    interaction = next(iter(loaders[2]))[0]
    model.eval()
    state = model.noise.generator.get_state()
    with torch.no_grad():
        scores = model.full_sort_predict(interaction)
        table, _ = _means(model, noisy=False)
    assert torch.equal(model.noise.generator.get_state(), state)
    users, items = table[: model.n_users], table[model.n_users :]
    expected = (users[interaction["user_id"]] @ items.T).view(-1).float()
    torch.testing.assert_close(scores, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_noise_goes_on_where_a_checkpoint_was_taken(folder: Path, name: str) -> None:
    model, loaders, _ = made(folder, name, neg_sampler="uniform")
    batch, state = next(iter(loaders[0])), copy.deepcopy(model.state_dict())
    loss = model.calculate_loss(batch).detach()
    assert model.calculate_loss(batch).detach() != loss
    model.load_state_dict(state)
    copied = copy.deepcopy(model)
    assert torch.equal(model.calculate_loss(batch).detach(), loss)
    assert torch.equal(copied.calculate_loss(batch).detach(), loss)


def test_ranks_go_on_from_the_first_ones_checkpoint_with_noise_of_their_own() -> None:
    rows, cpu = torch.ones(4, 3), torch.device("cpu")
    first, second = SignedNoise(0.3, 7, cpu), SignedNoise(0.3, 7, cpu, rank=1)
    first(rows)
    state = first.state_dict()
    unbroken = first(rows)
    for noise in (first, second):
        noise.load_state_dict(state)
    again, other = first(rows), second(rows)
    assert torch.equal(again, unbroken) and not torch.equal(other, unbroken)
    copied = copy.deepcopy(second)
    copied.load_state_dict(state)
    assert torch.equal(copied(rows), other)


def test_noise_of_another_kind_of_device_is_told_and_left(caplog: pytest.LogCaptureFixture) -> None:
    noise = SignedNoise(0.3, 7, torch.device("cpu"))
    before = noise.generator.get_state()
    noise.load_state_dict({"_extra_state": torch.zeros(16, dtype=torch.uint8)})  # as long as CUDA's
    assert "restores no noise on cpu" in caplog.text and torch.equal(noise.generator.get_state(), before)


@pytest.mark.parametrize("name", NAMES)
def test_an_exported_model_is_that_of_the_checkpoint(folder: Path, tmp_path: Path, name: str) -> None:
    from safetensors.torch import load_file

    values = settings(folder, name, neg_sampler="uniform", epochs=1)
    result = run_recbole_hnlm(name, "tiny", config_dict=values)
    checkpoint = Path(result["hnlm"]["checkpoint"])
    weights = load_file(export_checkpoint(checkpoint, tmp_path / "out")[0])
    model, loaders, _ = made(folder, name, neg_sampler="none")
    model.load_state_dict(weights)
    stored = torch.load(checkpoint, weights_only=False)["state_dict"]
    assert weights.keys() == plain_state(stored).keys() == model.state_dict().keys()
    assert all(torch.equal(weights[key], stored[key]) for key in weights)


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_copied_after_a_pass_with_gradients(folder: Path, name: str) -> None:
    model, loaders, _ = made(folder, name, neg_sampler="uniform")
    model.train()
    view = model.hnlm_view()
    copied = copy.deepcopy(model)
    assert view.items.requires_grad
    batch = next(iter(loaders[0]))
    assert torch.equal(copied.calculate_loss(copy.copy(batch)), model.calculate_loss(batch))


@pytest.mark.parametrize("name", NAMES)
def test_weight_zero_and_no_noise_leave_the_ranking_alone(folder: Path, name: str) -> None:
    """Noise then only moves SimGCL's generator; XSimGCL's ranking is noisy unless eps is 0."""
    losses = []
    for values in ({"lambda": 0.0, "eps": 0.0}, {"lambda": 0.0, "eps": 0.5}, {"lambda": 0.5, "eps": 0.0}):
        model, loaders, _ = made(folder, name, neg_sampler="uniform", **values)
        losses.append(float(first_loss(model, loaders)))
    assert (losses[0] == losses[1]) is (name == "SimGCL")
    assert losses[2] > losses[0]


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("SimGCL", {"n_layers": 0}, "n_layers=0 leaves SimGCL nothing to average"),
        ("SimGCL", {"eps": -0.1}, "eps=-0.1 is the length of the noise"),
        ("SimGCL", {"eps": float("nan")}, "eps=nan is the length of the noise"),
        ("SimGCL", {"lambda": float("nan")}, "lambda=nan weighs the contrast"),
        ("XSimGCL", {"lambda": -1.0}, "lambda=-1.0 weighs the contrast"),
        ("XSimGCL", {"temperature": float("inf")}, "temperature=inf divides cosines"),
        ("XSimGCL", {"temperature": 0.0}, "temperature=0.0 divides cosines"),
        ("XSimGCL", {"layer_cl": 3}, r"layer_cl=3 should lie in 1..2 \(n_layers\)"),
        ("XSimGCL", {"layer_cl": 0}, "layer_cl=0 should lie in 1..2"),
    ],
)
def test_options_out_of_range_are_refused(folder: Path, name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(folder, name, neg_sampler="uniform", **values)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sampler", ["none", "dns", "mixgcf"])
def test_runs_by_name_and_after_register_are_the_same(folder: Path, name: str, sampler: str) -> None:
    from recbole.quick_start import run_recbole

    values = settings(folder, name, neg_sampler=sampler, epochs=1)
    ours = run_recbole_hnlm(name, "tiny", config_dict=values, saved=True)
    recbole_hnlm.register()
    try:
        theirs = run_recbole(name, "tiny", config_dict=values)
    finally:
        recbole_hnlm.unregister()
    assert ours["test_result"] == theirs["test_result"]
    assert ours["best_valid_score"] == theirs["best_valid_score"]
