"""What a user's own model may look like, and still train on the negatives that it would choose itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import own_models
import pytest
import torch
from recbole.data.interaction import Interaction
from recbole_runs import first_loss, made, settings, write_dataset

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.models import refusal

LIGHT = {"n_layers": 2, "reg_weight": 1e-4, "require_pow": False}
LOAD = {"load_col": {"inter": ["user_id", "item_id"], "item": ["item_id", "title", "maker"]}}
OWN_START = {"neg_sampler": "hnlm", "hnlm_init": "random", "neg_sampler_candidates": 4}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def run_of(folder: Path, model: Any, **values: Any) -> Any:
    """A model with a step behind it, so that what starts at 0 is there no more."""
    artefacts = {"hnlm_artefact_dir": str(folder / "artefacts")} if values["neg_sampler"] == "hnlm" else {}
    wrapped, loaders, _ = made(folder, model, **{**LIGHT, **LOAD, **artefacts, **values})
    assert torch.isfinite(first_loss(wrapped, loaders))
    return wrapped


@pytest.mark.parametrize("name", ["Biased", "BiasTable", "Distant", "Makers", "Undivided", "NoForward", "OtherNames"])
def test_candidates_are_ranked_by_the_models_own_scores(folder: Path, name: str) -> None:
    model = run_of(folder, getattr(own_models, name), neg_sampler="dns", neg_sampler_candidates=4)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.rand_like(parameter), alpha=0.3)
    model.eval()
    users, items = torch.arange(1, 21), torch.randint(1, model.n_items, (20, 6))
    pairs = {"user_id": users.repeat_interleave(6), "item_id": items.reshape(-1)}
    if name == "Makers":
        pairs["maker"] = model.makers[pairs["item_id"]]
    expected = model.predict(Interaction(pairs)).detach().view(20, 6)
    torch.testing.assert_close(model.hnlm_view().score(users, items), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["Biased", "Distant", "Undivided", "Makers"])
@pytest.mark.parametrize("sampler", ["dins", "dens"])
def test_what_is_no_inner_product_is_refused_where_one_is_needed(folder: Path, name: str, sampler: str) -> None:
    with pytest.raises(ValueError, match=f"{name} (are not|does not rank by inner products)|those of {name} are not"):
        run_of(folder, getattr(own_models, name), neg_sampler=sampler)


@pytest.mark.parametrize("mode", ["full", "uni5"])
def test_scores_that_are_no_numbers_are_not_ranked(folder: Path, tmp_path: Path, mode: str) -> None:
    told = {"eval_args": {"mode": mode}, "epochs": 1, "checkpoint_dir": str(tmp_path), "neg_sampler": "none"}
    with pytest.raises(ValueError, match="Overflown scores every item of .* users NaN or infinite"):
        run_recbole_hnlm(own_models.Overflown, "tiny", config_dict=settings(folder, "BPR", **told))


@pytest.mark.parametrize("sampler", ["none", "dns", "hnlm"])
def test_a_width_that_nobody_set_is_asked_for(folder: Path, sampler: str) -> None:
    values = {**settings(folder, "BPR"), "neg_sampler": sampler, "embedding_size": None}
    with pytest.raises(ValueError, match=r"Biased cannot be made, and embedding_size is not set"):
        run_recbole_hnlm(own_models.Biased, "tiny", config_dict=values)


@pytest.mark.parametrize("name", ["Distant", "Undivided"])
@pytest.mark.parametrize("sampler", ["mixgcf", "hnlm"])
def test_tables_that_do_not_rank_take_no_rows_and_no_text(folder: Path, name: str, sampler: str) -> None:
    with pytest.raises(
        ValueError, match=f"{name} does not rank by inner products of a table of users and one of items"
    ):
        run_of(folder, getattr(own_models, name), neg_sampler=sampler)


def test_one_embedding_of_users_and_items_takes_samplers_and_no_text(folder: Path) -> None:
    run_of(folder, own_models.OneTable, neg_sampler="dns")
    run_of(folder, own_models.OneTable, neg_sampler="dns_mn")
    with pytest.raises(ValueError, match='OneTable reads items by id, .* "item" in its name, so no text can enter it'):
        run_of(folder, own_models.OneTable, neg_sampler="hnlm")


def test_an_embedding_with_item_anywhere_in_its_name_takes_rows_and_text(folder: Path) -> None:
    run_of(folder, own_models.OtherNames, neg_sampler="mixgcf")
    model = run_of(folder, own_models.OtherNames, neg_sampler="hnlm", hnlm_init_scale=0.3)
    assert float(model.embedding_item.weight[1:].std()) == pytest.approx(0.3, rel=0.1)


def test_what_a_loss_indexes_by_made_rows_is_told(folder: Path) -> None:
    run_of(folder, own_models.Popular, neg_sampler="dns")
    with pytest.raises(
        RuntimeError, match="Popular indexes something beside its tables .* id-only sampler such as dns"
    ):
        run_of(folder, own_models.Popular, neg_sampler="mixgcf")


WEIGHTED: list[dict[str, Any]] = [{"neg_sampler": "softmax", "neg_sampler_candidates": 8},
                                  {**OWN_START, "hnlm_use": "extra", "hnlm_alpha": 0.5}]  # fmt: skip
SEVERAL = [*WEIGHTED, {"neg_sampler": "uniform", "neg_sampler_num": 4}]


@pytest.mark.parametrize("values", SEVERAL)
@pytest.mark.parametrize("name", ["Columns", "Named"])
def test_several_negatives_enter_one_loss_however_it_is_called(folder: Path, name: str, values: dict[str, Any]) -> None:
    losses = []
    for model in (own_models.Biased, getattr(own_models, name)):
        artefacts = {"hnlm_artefact_dir": str(folder / "artefacts")} if values["neg_sampler"] == "hnlm" else {}
        wrapped, loaders, _ = made(folder, model, **{**LOAD, **artefacts, **values})
        with torch.no_grad():
            for parameter in wrapped.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter).sin_())
        losses.append(first_loss(wrapped, loaders))
    torch.testing.assert_close(losses[1], losses[0])


@pytest.mark.parametrize("values", WEIGHTED)
def test_a_loss_that_takes_no_weights_is_refused_at_the_first_step(folder: Path, values: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="Unused has a BPRLoss and did not give it a score.*neg_sampler: dns"):
        run_of(folder, own_models.Unused, **values)
    run_of(folder, own_models.Unused, neg_sampler="dns", neg_sampler_num=2)


@pytest.mark.parametrize("sampler", ["recbole", "uniform", "dns"])
@pytest.mark.parametrize("name", ["Makers", "MakersOfPoints"])
def test_features_of_negatives_are_theirs(folder: Path, name: str, sampler: str) -> None:
    several = {} if sampler == "recbole" else {"neg_sampler_num": 2}
    model = run_of(folder, getattr(own_models, name), neg_sampler=sampler, **several)
    assert model.seen > 0
    bare = run_of(folder, getattr(own_models, name), neg_sampler="none")
    assert bare.seen > 0


def test_frozen_features_and_biases_stay_as_they_are(folder: Path) -> None:
    for sampler in ("uniform", "mixgcf"):
        run_of(folder, own_models.BiasTable, neg_sampler=sampler)
    torch.manual_seed(0)
    model, _, _ = made(
        folder, own_models.BiasTable, **LOAD, neg_sampler="hnlm", hnlm_artefact_dir=str(folder / "frozen")
    )
    assert not model.item_bias.weight.any()
    assert float(model.item_looks.weight.detach().std()) == pytest.approx(1.0, abs=0.1)
    assert float(model.item_embedding.weight[1:].std()) == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize("name", ["NoForward", "FullSortOnly"])
def test_models_without_forward_or_predict_train_and_are_tried_without_a_trace(folder: Path, name: str) -> None:
    assert refusal(getattr(own_models, name)) is None
    model = run_of(folder, getattr(own_models, name), neg_sampler="dns")
    assert model.hnlm_view().has_user_rows


def test_a_trial_leaves_parameters_mode_caches_and_randomness_alone(folder: Path) -> None:
    states, weights = [], []
    for values in ({}, {"neg_sampler": "dns"}):
        torch.manual_seed(5)
        model, _, _ = made(folder, own_models.Distant, **LIGHT, **values)
        states.append(torch.get_rng_state())
        weights.append(dict(model.named_parameters()))
    assert torch.equal(*states)
    assert all(torch.equal(parameter, weights[1][name]) for name, parameter in weights[0].items())
    assert model.training and all(module.training for module in model.modules())
    assert model.restore_user_e is None


def test_tables_that_a_trial_had_cached_are_not_ranked_by(folder: Path) -> None:
    model, _, _ = made(folder, own_models.CachedFullSort, **LIGHT, neg_sampler="dins")
    assert model.restore_user_e is None and model.restore_item_e is None


@pytest.mark.parametrize("name", ["Forgetful", "XSimGCL"])
def test_noise_of_a_propagation_does_not_hide_that_its_tables_rank(folder: Path, name: str) -> None:
    model = run_of(folder, getattr(own_models, name, name), neg_sampler="dins")
    assert model.hnlm_view().has_user_rows


@pytest.mark.parametrize(("key", "value"), [("use_pretrain", True), ("pretrain_path", "fism.pth")])
def test_a_start_from_text_is_refused_beside_pretrained_embeddings(folder: Path, key: str, value: Any) -> None:
    given, artefacts = {**LOAD, key: value}, {"hnlm_artefact_dir": str(folder / "pretrained")}
    with pytest.raises(ValueError, match=f"{key}={value!r} loads embeddings .* set hnlm_init: random to keep them"):
        made(folder, "BPR", neg_sampler="hnlm", **given, **artefacts)
    made(folder, "BPR", **OWN_START, **given, **artefacts)
    made(folder, "BPR", neg_sampler="dns", **given)
