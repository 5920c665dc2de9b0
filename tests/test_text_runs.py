"""That each part of the text side really reaches a run: start, mixing, alignment, controls, weights, field names."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole_runs import settings, write_dataset

from recbole_hnlm import hnlm, run_recbole_hnlm
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.models.losses import joint_ranking_loss
from recbole_hnlm.models.start import PairMeans, principal_components, spread
from recbole_hnlm.quick_start import build_model, prepare

PLAIN = {"hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0, "neg_sampler_candidates": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def made(folder: Path, name: str, **values: Any) -> tuple[Any, Any]:
    shared = {"neg_sampler": "hnlm", "llm_teacher_epochs": 1, "hnlm_artefact_dir": str(folder / "artefacts"),
              "llm_cache_dir": str(folder / "cache")}  # fmt: skip
    config = HNLMConfig(name, "tiny", config_dict=settings(folder, name, **{**shared, **values}))
    loader = prepare(config)[0]
    return build_model(config, loader), loader


def loss_of(model: Any, batch: Any, state: torch.Tensor) -> Any:
    model.hnlm.generator.set_state(state)
    return model.calculate_loss(batch)


@pytest.mark.parametrize(
    ("name", "given", "scale", "hops"),
    [("BPR", {"hnlm_init_scale": 0.3, "hnlm_init_hops": 0}, 0.3, 0), ("BPR", {}, 0.02, 3),
     ("LightGCN", {"hnlm_init_scale": 0.3, "hnlm_init_hops": 1}, 0.3, 1), ("LightGCN", {}, 0.2, 0)],
)  # fmt: skip
def test_items_start_at_their_text_larger_where_a_graph_averages_and_spread_where_none_does(
    folder: Path, name: str, given: dict[str, float], scale: float, hops: int
) -> None:
    model, _ = made(folder, name, **PLAIN, **given)
    text = model.hnlm.text_head.text
    rows = principal_components(text.items, text.item_mask, 8).numpy()
    expected = scale * spread(rows, text.item_mask.numpy(), PairMeans(model.hnlm.interactions), hops)
    found = model.item_embedding.weight.detach().numpy()
    np.testing.assert_allclose(found[text.item_mask], expected[text.item_mask], rtol=1e-4, atol=1e-6)
    assert hops == 0 or not np.allclose(found[text.item_mask], scale * rows[text.item_mask], rtol=0.1)


def test_the_hard_vector_is_mixed_into_the_negative_of_the_loss(folder: Path) -> None:
    model, loader = made(folder, "BPR", hnlm_alpha=0.6, hnlm_alignment_weight=0.0, neg_sampler_candidates=1)
    batch = next(iter(loader))
    state = model.hnlm.generator.get_state()
    users, items = batch["user_id"], batch["item_id"]
    found = loss_of(model, batch, state)
    model.hnlm.generator.set_state(state)
    ids = model.hnlm.sampler.drawer.draw(users, 1).squeeze(1)
    pairs = model.hnlm.text_head.text.pair_vectors(model.hnlm.vector_rows(users, items))
    hard = model.hnlm.text_head.projector(pairs.vectors)[pairs.index]
    rows = model.item_embedding.weight[ids]
    hard = hard * rows.norm(dim=1, keepdim=True) / hard.norm(dim=1, keepdim=True)
    mixed = torch.where(pairs.present.unsqueeze(1), 0.4 * rows + 0.6 * hard, rows)
    user = model.user_embedding.weight[users]
    gap = (user * (mixed - model.item_embedding.weight[items])).sum(dim=1)
    torch.testing.assert_close(found, torch.nn.functional.softplus(gap).mean())


@pytest.mark.parametrize("name", ["BPR", "LightGCN"])
@pytest.mark.parametrize("use", ["compete", "extra"])
def test_other_uses_of_the_hard_vector_are_what_they_say(folder: Path, use: str, name: str) -> None:
    quiet = {"hnlm_alignment_weight": 0.0, "neg_sampler_candidates": 1, "reg_weight": 0.0}
    model, loader = made(folder, name, hnlm_alpha=0.6, hnlm_use=use, **quiet)
    batch = next(iter(loader))
    state = model.hnlm.generator.get_state()
    users, items = batch["user_id"], batch["item_id"]
    found = loss_of(model, batch, state)
    model.hnlm.generator.set_state(state)
    ids = model.hnlm.sampler.drawer.draw(users, 1).squeeze(1)
    view = model.hnlm_view()
    pairs = model.hnlm.text_head.text.pair_vectors(model.hnlm.vector_rows(users, items))
    hard = model.hnlm.text_head.projector(pairs.vectors)[pairs.index]
    user, rows = view.user_rows(users), view.item_rows(ids)
    hard = hard * rows.norm(dim=1, keepdim=True) / hard.norm(dim=1, keepdim=True)
    positive, negative, hard_score = ((user * other).sum(dim=1) for other in (view.item_rows(items), rows, hard))
    above = (hard_score > negative) & pairs.present
    assert 0 < int(above.sum()) < above.numel()
    if use == "compete":
        negative = torch.where(above, 0.4 * negative + 0.6 * hard_score, negative)
        expected = torch.log1p((negative - positive).exp()).mean()
    else:
        share = 0.6 * pairs.present
        expected = torch.log1p((negative - positive).exp() + share * (hard_score - positive).exp()).mean()
    torch.testing.assert_close(found.reshape(()), expected)


def test_alpha_grows_with_the_epochs(folder: Path) -> None:
    model, loader = made(folder, "BPR", hnlm_alpha=0.6, hnlm_alpha_epochs=3)
    seen = []
    for epoch in range(5):
        model.hnlm.epoch = epoch
        seen.append(model.hnlm.alpha)
    assert seen == pytest.approx([0.0, 0.2, 0.4, 0.6, 0.6])
    values = {"neg_sampler": "hnlm", "hnlm_artefact_dir": str(folder / "artefacts"), "llm_teacher_epochs": 1,
              "hnlm_alpha": 0.6, "hnlm_alpha_epochs": 2, "epochs": 2, "checkpoint_dir": str(folder / "saved"),
              "llm_cache_dir": str(folder / "cache")}  # fmt: skip
    told = run_recbole_hnlm("BPR", "tiny", config_dict=settings(folder, "BPR", **values))["hnlm"]["negatives"]
    assert ["coverage" in means for means in told] == [False, True]  # nothing is mixed in the first


def test_alpha_that_cannot_grow_is_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model, loader = made(folder, "BPR", hnlm_alpha=0.6, hnlm_alpha_epochs=3)
    for batch in itertools.islice(loader, 2):  # a loop of the user's own, which tells no epoch
        model.calculate_loss(batch)
    assert caplog.text.count("hnlm_alpha_epochs has no effect") == 1
    assert model.hnlm.alpha == 0.6


def test_an_extra_negative_has_its_statistics(folder: Path) -> None:
    model, loader = made(folder, "BPR", hnlm_alpha=0.6, hnlm_use="extra")
    model.calculate_loss(next(iter(loader)))
    means = model.hnlm.statistics.epoch_means()
    assert {"hardness", "coverage", "text_above_negative", "negative_popularity", "text_above_items"} <= set(means)
    assert 0 < means["text_above_negative"] < 1 and means["hardness"] != 0


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("NeuMF", {"hnlm_use": "extra"}, "the loss of NeuMF takes one negative a pair"),
        ("NeuMF", {"hnlm_use": "compete"}, "no user rows of the items' width"),
        ("BPR", {"hnlm_use": "extra", "neg_sampler_num": 2}, "hnlm_use=extra adds to one negative a pair"),
        ("BPR", {"hnlm_alpha": 0.0, "hnlm_use": "extra"}, "hnlm_use has no effect here"),
        ("BPR", {"hnlm_alpha_epochs": -1}, "hnlm_alpha_epochs=-1 is negative"),
    ],
)
def test_uses_that_a_run_cannot_have_are_refused(folder: Path, name: str, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made(folder, name, **{"hnlm_alpha": 0.5, **values})


def test_a_control_of_pairs_leaves_the_items_alone(folder: Path) -> None:
    plain, loader = made(folder, "BPR", hnlm_alpha=0.5)
    batch = next(iter(loader))
    where = batch["user_id"], batch["item_id"]
    for control in ("pairs_permuted", "pairs_gaussian"):
        other, _ = made(folder, "BPR", hnlm_alpha=0.5, hnlm_control=control)
        texts = plain.hnlm.text_head.text, other.hnlm.text_head.text
        assert torch.equal(texts[0].items, texts[1].items)
        vectors = [text.pair_vectors(text.rows_of(*where)) for text in texts]
        assert not torch.allclose(vectors[0].vectors[vectors[0].index], vectors[1].vectors[vectors[1].index])


@pytest.mark.parametrize("name", ["BPR", "NCL"])
def test_the_alignment_is_in_the_loss_and_in_what_is_told(folder: Path, name: str) -> None:
    model, loader = made(folder, name, hnlm_alpha=0.0, hnlm_alignment_weight=0.5, neg_sampler_candidates=4)
    if name == "NCL":
        model.e_step()
    batch = next(iter(loader))
    state = model.hnlm.generator.get_state()
    losses = loss_of(model, batch, state)
    told = model.hnlm.statistics.epoch_means()["alignment_loss"]
    head, model.hnlm.text_head = model.hnlm.text_head, None
    without = loss_of(model, batch, state)
    model.hnlm.text_head = head
    with_terms, terms = (value if isinstance(value, tuple) else (value,) for value in (losses, without))
    assert told > 0.1
    assert float((with_terms[0] - terms[0]).detach().sum()) == pytest.approx(told, rel=1e-3)
    assert len(with_terms) == len(terms)


def test_softmax_weights_reach_the_loss(folder: Path) -> None:
    model, loader = _softmax(folder)
    batch = next(iter(loader))
    state = model.hnlm.generator.get_state()
    users, items = batch["user_id"], batch["item_id"]
    with torch.no_grad():
        model.item_embedding.weight.mul_(20)
    found = loss_of(model, batch, state)
    model.hnlm.generator.set_state(state)
    negatives = model.hnlm.draw(users, items, model.hnlm_view())
    user = model.user_embedding.weight[users]
    positive = (user * model.item_embedding.weight[items]).sum(dim=1)
    scores = (user.unsqueeze(1) * model.item_embedding.weight[negatives.ids]).sum(dim=2)
    torch.testing.assert_close(found, joint_ranking_loss(positive, scores, negatives.weights))
    assert not torch.allclose(found, joint_ranking_loss(positive, scores, torch.full_like(scores, 0.25)))


def _softmax(folder: Path) -> tuple[Any, Any]:
    config = HNLMConfig(
        "BPR", "tiny", config_dict=settings(folder, "BPR", neg_sampler="softmax", neg_sampler_candidates=4)
    )
    loader = prepare(config)[0]
    return build_model(config, loader), loader


@pytest.mark.parametrize("control", ["permuted", "gaussian"])
def test_controls_reach_items_and_pairs(folder: Path, control: str) -> None:
    honest, loader = made(folder, "BPR", hnlm_alpha=0.5)
    other, _ = made(folder, "BPR", hnlm_alpha=0.5, hnlm_control=control)
    batch = next(iter(loader))
    texts = [model.hnlm.text_head.text for model in (honest, other)]
    assert not torch.equal(texts[0].items, texts[1].items)
    vectors = [text.pair_vectors(text.rows_of(batch["user_id"], batch["item_id"])) for text in texts]
    assert not torch.equal(vectors[0].vectors[vectors[0].index], vectors[1].vectors[vectors[1].index])
    assert torch.equal(vectors[0].present, vectors[1].present)


def test_false_negatives_are_counted_against_held_out_positives(folder: Path) -> None:
    model, _ = made(folder, "BPR", **PLAIN)
    users, items = torch.tensor([1, 2, 3, 4]), torch.tensor([5, 6, 7, 8])

    class Split:
        uid_field, iid_field = "user_id", "item_id"
        inter_feat = {"user_id": torch.tensor([1, 3, 9]), "item_id": torch.tensor([5, 7, 8])}

    model.hnlm.statistics.watch_held_out([Split()])
    model.hnlm.statistics.observe(users, items, items, None, None)
    assert model.hnlm.statistics.epoch_means()["false_negative_rate"] == 0.5


def test_a_copy_has_a_head_of_its_own_with_the_same_draws(folder: Path) -> None:
    model, loader = made(folder, "LightGCN", hnlm_alpha=0.2)
    twin = copy.deepcopy(model)
    batch = next(iter(loader))
    assert set(twin.state_dict()) == set(model.state_dict())
    first, second = (m.calculate_loss(copy.copy(batch)) for m in (model, twin))
    assert torch.equal(first, second)
    assert twin.hnlm.text_head.projector is not model.hnlm.text_head.projector


def test_user_chosen_field_names_and_separators_keep_their_text(tmp_path: Path) -> None:
    home = write_dataset(tmp_path) / "tiny"
    for file in ("tiny.inter", "tiny.item"):
        path = home / file
        path.write_text(path.read_text().replace("user_id", "who").replace("item_id", "what").replace("\t", ","))
    values = {"USER_ID_FIELD": "who", "ITEM_ID_FIELD": "what", "field_separator": ",", "llm_teacher_epochs": 1,
              "load_col": {"inter": ["who", "what"]}}  # fmt: skip
    run_recbole_hnlm("BPR", "tiny", config_dict=settings(tmp_path, "BPR", **values))
    assert '"encoder": "all-MiniLM-L6-v2"' in (home / "tiny.hnlm.json").read_text()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("DMF", {}, "DMF reads items by id"),
        ("NeuMF", {"hnlm_base_sampler": "dins"}, "those of NeuMF are not"),
        ("BPR", {"llm_teacher_model": "LightGNC"}, "no model of RecBole's"),
        ("BPR", {"llm_teacher_model": "NCL"}, "needs a trainer of its own"),
        ("BPR", {"llm_text_fields": ["titel"]}, "title"),
    ],
)
def test_what_cannot_work_is_refused_before_the_teacher_trains(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, values: dict[str, Any], message: str
) -> None:
    def reached(*args: Any) -> None:
        raise AssertionError("the teacher was trained")

    monkeypatch.setattr("recbole_hnlm.building.teacher._fit", reached)
    full = {"hnlm_artefact_dir": str(tmp_path / "a"), "llm_cache_dir": str(tmp_path / "c"), **values}
    with pytest.raises(ValueError, match=message):
        run_recbole_hnlm(name, "tiny", config_dict=settings(folder, name, **full))


def test_a_wrapped_class_beside_recboles_own_sampling_is_refused(folder: Path) -> None:
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.model.general_recommender import NeuMF

    config = Config("NeuMF", "tiny", config_dict=settings(folder, "NeuMF", neg_sampler="dns"))
    train_data = data_preparation(config, create_dataset(config))[0]
    with pytest.raises(ValueError, match=r"recbole_hnlm\.HNLMConfig"):
        hnlm(NeuMF)(config, train_data._dataset)


@pytest.mark.parametrize(
    ("values", "blocks"),
    [
        ({"neg_sampler_num": 3}, 3),
        ({"hnlm_base_sampler": "recbole", "train_neg_sample_args": {"distribution": "uniform", "sample_num": 2}}, 2),
    ],
)
def test_the_alignment_knows_how_often_a_step_holds_every_pair(
    folder: Path, values: dict[str, Any], blocks: int
) -> None:
    model, loader = made(folder, "BPR", hnlm_alpha=0.0, hnlm_aligned_pairs=0, **values)
    seen: list[int] = []
    aligned = model.hnlm.text_head._anchor
    model.hnlm.text_head._anchor = lambda view, users, items: seen.append(users.numel()) or aligned(view, users, items)
    batch = next(iter(loader))
    model.calculate_loss(batch)
    rows = len(batch) if values.get("neg_sampler_num") else len(batch) // blocks  # RecBole's loader hands out all rows
    assert model.hnlm.text_head.blocks == blocks and seen == [rows]
