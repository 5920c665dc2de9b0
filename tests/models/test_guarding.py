"""Gates and guard in whole runs: trained, kept and restored; bit for bit the unguarded run where nothing is refused."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.utils import get_trainer, init_seed
from recbole_runs import first_loss, made, write_dataset

from recbole_hnlm.models.guarding import TextScore
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.training.watching import watching

SCORE = {"neg_sampler_guard": "score"}
TEXT = {"neg_sampler": "hnlm", "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "hnlm_init": "random",
        "neg_sampler_candidates": 6, "neg_sampler_guard": "text", "llm_teacher_epochs": 1}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def fitted(folder: Path, name: str, **values: Any) -> Any:
    """A trainer after two epochs."""
    model, loaders, config = made(folder, name, **values)
    init_seed(3, True)
    trainer = watching(get_trainer(config["MODEL_TYPE"], name))(config, model)
    trainer.fit(loaders[0], loaders[1], saved=False)
    return trainer


def losses(trainer: Any) -> list[float]:
    return [means["rank_loss"] for means in trainer.negative_statistics]


@pytest.mark.parametrize("name", ["BPR", "LightGCN"])
def test_gates_are_trained_with_the_model(folder: Path, name: str) -> None:
    values = {"neg_sampler": "dens", "neg_sampler_candidates": 6}
    untrained = made(folder, name, **values)[0].hnlm.gates.state_dict()
    trainer = fitted(folder, name, **values)
    model, sampler = trainer.model, trainer.model.hnlm.sampler
    assert sampler.gates is model.hnlm.gates and sampler.epoch == 1
    assert trainer.optimizer.defaults["fused"]
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    for key, weight in sampler.gates.named_parameters():
        assert id(weight) in optimized and not torch.equal(weight, untrained[key]), key
    assert all(means["sampler_loss"] > 0 for means in trainer.negative_statistics)
    fresh = made(folder, name, **values)[0]
    fresh.load_state_dict(model.state_dict())
    copied = copy.deepcopy(model)
    for other in (fresh, copied):
        assert other.hnlm.sampler.gates is other.hnlm.gates and other.hnlm.gates is not model.hnlm.gates
        for key, weight in sampler.gates.state_dict().items():
            assert torch.equal(other.state_dict()[f"hnlm.gates.{key}"], weight)


def test_the_gate_loss_is_in_the_loss(folder: Path) -> None:
    model, loaders, _ = made(folder, "LightGCN", neg_sampler="dens", neg_sampler_candidates=6)
    plain, plain_loaders, _ = made(
        folder, "LightGCN", neg_sampler="dens", neg_sampler_candidates=6, neg_sampler_gamma=0
    )
    difference = first_loss(model, loaders) - first_loss(plain, plain_loaders)
    told = model.hnlm.statistics.epoch_means()["sampler_loss"]
    assert difference.item() == pytest.approx(told, rel=1e-4) and told > 0.1


def test_a_model_without_user_rows_refuses_gates(folder: Path) -> None:
    with pytest.raises(ValueError, match="dens needs scores that are inner products, those of NeuMF are not"):
        made(folder, "NeuMF", neg_sampler="dens")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("BPR", {"neg_sampler": "dns", "neg_sampler_candidates": 6}),
        ("BPR", {"neg_sampler": "softmax", "neg_sampler_candidates": 4}),
        ("LightGCN", {"neg_sampler": "mixgcf", "neg_sampler_candidates": 4, "neg_sampler_num": 2}),
        ("NeuMF", {"neg_sampler": "uniform"}),
    ],
)
def test_a_guard_that_refuses_nothing_changes_nothing(folder: Path, name: str, values: dict[str, Any]) -> None:
    plain = fitted(folder, name, **values)
    guarded = fitted(folder, name, **values, **SCORE, neg_sampler_guard_max_score=1e9)
    assert losses(plain) == losses(guarded)
    assert guarded.negative_statistics[-1]["guard_refused"] == 0
    assert "guard_refused" not in plain.negative_statistics[-1] and plain.model.hnlm.sampler.guard is None
    for one, two in zip(plain.model.parameters(), guarded.model.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize(("name", "margin"), [("BPR", 0.1), ("LightGCN", 0.1), ("NeuMF", 0.001)])
def test_a_guard_that_refuses(folder: Path, name: str, margin: float, caplog: pytest.LogCaptureFixture) -> None:
    values = {"neg_sampler": "dns", "neg_sampler_candidates": 6, "neg_sampler_num": 2}
    plain = fitted(folder, name, **values)
    with caplog.at_level(logging.INFO, logger="recbole_hnlm.training.watching"):
        guarded = fitted(folder, name, **values, **SCORE, neg_sampler_guard_relative_margin=margin)
    means = guarded.negative_statistics[-1]
    assert 0 < means["guard_refused"] < 1 and 0 <= means["guard_uncleaned"] < 1
    assert losses(plain) != losses(guarded)
    assert "| neg_sampler_guard=score | count | share |" in caplog.text
    assert guarded.model.hnlm.candidates_per_pair == 12  # drawn ahead as ever, spares come when they are needed


def test_draws_of_the_guard_are_restored_and_copied(folder: Path) -> None:
    values = {"neg_sampler": "uniform", **SCORE, "neg_sampler_guard_relative_margin": 0.0}
    model = fitted(folder, "BPR", **values).model
    fresh = made(folder, "BPR", **values)[0]
    assert not torch.equal(*(m.hnlm.sampler.guard.drawer.generator.get_state() for m in (model, fresh)))
    fresh.load_state_dict(model.state_dict())
    unguarded = made(folder, "BPR", neg_sampler="uniform")[0]
    unguarded.load_state_dict(model.state_dict())
    state = unguarded.state_dict()
    for other in (fresh, copy.deepcopy(model)):
        assert torch.equal(*(m.hnlm.sampler.guard.drawer.generator.get_state() for m in (model, other)))
    before = fresh.hnlm.sampler.guard.drawer.generator.get_state()
    fresh.load_state_dict(state)  # of a run without a guard
    assert torch.equal(fresh.hnlm.sampler.guard.drawer.generator.get_state(), before)


def test_spares_are_no_repetition_of_the_candidates(folder: Path) -> None:
    values = {**SCORE, "neg_sampler_guard_relative_margin": 0.0}
    sampler = made(folder, "BPR", neg_sampler="uniform", **values)[0].hnlm.sampler
    users = torch.arange(1, 60)
    candidates, spares = (drawer.draw(users, 4) for drawer in (sampler.drawer, sampler.guard.drawer))
    assert (candidates == spares).float().mean() < 0.2


def test_a_guard_by_text_brings_the_text_that_nothing_else_reads(folder: Path) -> None:
    values = {**TEXT, "hnlm_artefact_dir": str(folder / "art"), "llm_cache_dir": str(folder / "cache")}
    trainer = fitted(folder, "BPR", **values, neg_sampler_guard_relative_margin=0.2)
    head = trainer.model.hnlm
    assert (folder / "art" / "tiny.hnlm.json").exists()
    assert head.text_head is None and isinstance(head.sampler.guard.score, TextScore)
    assert 0 < trainer.negative_statistics[-1]["guard_refused"] < 1
    assert copy.deepcopy(trainer.model).hnlm.sampler.guard.score is head.sampler.guard.score
    with torch.no_grad():
        users, items = torch.tensor([1, 2]), torch.arange(1, head.interactions.n_items).repeat(2, 1)
        cosines = head.sampler.guard.score(users, items, None)
    taste = head.interactions.keys % head.interactions.n_items
    own = taste[head.interactions.keys // head.interactions.n_items == 1]
    assert cosines[0][own - 1].mean() > cosines[0].mean()  # one's own taste is nearer in text


@pytest.mark.parametrize("rule", ["dns", "dtl"])
def test_a_guard_by_trees_never_lets_a_scored_item_through(
    folder: Path, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # trees are kept in hnlm_cache
    limits = {"neg_sampler_guard": "tree", "neg_sampler_guard_max_score": 0.0, "neg_sampler_guard_spares": 30}
    own = {"neg_sampler_policy": "downweight"} if rule == "dtl" else {}
    trainer = fitted(folder, "BPR", neg_sampler=rule, neg_sampler_candidates=3, **limits, **own)
    model = trainer.model
    assert 0 < trainer.negative_statistics[-1]["guard_refused"] < 1
    interactions, guard = model.hnlm.interactions, model.hnlm.sampler.guard
    users = torch.arange(1, interactions.n_users).repeat_interleave(20)
    positives = (interactions.keys % interactions.n_items)[interactions.user_starts[users]]
    ids = model.hnlm.sampler.sample(users, positives, model.hnlm_view()).ids
    scored = guard.score(users, ids, model.hnlm_view()).squeeze(1) > 0
    everything = guard.score(users, torch.arange(1, interactions.n_items).repeat(users.numel(), 1), model.hnlm_view())
    assert scored.float().mean() < 0.05 < (everything > 0).float().mean()
    assert copy.deepcopy(model).hnlm.sampler.guard.score is guard.score


@pytest.mark.parametrize("rule", ["uniform", "dns", "popularity", "mixgcf", "dens"])
def test_a_copy_draws_and_counts_for_itself(folder: Path, rule: str) -> None:
    model, loaders, _ = made(folder, "BPR", neg_sampler=rule, **SCORE, neg_sampler_guard_relative_margin=0.5)
    copied = copy.deepcopy(model)

    def states(of: Any) -> list[torch.Tensor]:
        return [of.hnlm.generator.get_state(), of.hnlm.sampler.guard.drawer.generator.get_state()]

    before, totals = states(model), model.hnlm.sampler.guard._totals.clone()
    batch = next(iter(loaders[0]))
    loss = copied.calculate_loss(batch)
    assert all(torch.equal(*pair) for pair in zip(before, states(model), strict=True))
    assert torch.equal(totals, model.hnlm.sampler.guard._totals)
    assert not any(torch.equal(*pair) for pair in zip(before, states(copied), strict=True))
    torch.testing.assert_close(model.calculate_loss(batch), loss, rtol=0, atol=0)


def test_text_score_against_cosines() -> None:
    interactions = TrainingInteractions(torch.tensor([1, 1, 2]), torch.tensor([1, 2, 4]), n_users=4, n_items=5)
    items = torch.randn(5, 3, generator=torch.Generator().manual_seed(1))
    mask = torch.tensor([False, True, True, True, False])
    items[~mask] = 0
    score = TextScore(TextVectors(items, mask, interactions, None, torch.device("cpu")))
    found = score(torch.tensor([1, 2]), torch.tensor([[2, 3, 4], [1, 2, 3]]), None)  # type: ignore[arg-type]
    mean = items[1] + items[2]
    expected = [torch.nn.functional.cosine_similarity(mean, items[item], dim=0) for item in (2, 3)]
    torch.testing.assert_close(found[0, :2], torch.stack(expected))
    assert found[0, 2] == -torch.inf and (found[1] == -torch.inf).all()  # no text: item 4, and so user 2
