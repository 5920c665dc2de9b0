"""The contract of every wrapped model: identity, virtual negatives, gradients, untouched state."""

from __future__ import annotations

import copy
import io
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.model.general_recommender import BPR
from recbole_runs import PAIRWISE, POINTWISE, first_loss, made, seed_everything, settings, write_dataset

from recbole_hnlm import hnlm
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.models import refusal
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.samplers import EmbeddingView, Negatives
from recbole_hnlm.samplers.uniform import UniformSampler

NO_TEXT = {"neg_sampler": "hnlm", "hnlm_base_sampler": "recbole", "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0,
           "hnlm_init": "random"}  # fmt: skip
ONLY_IDS = {"DMF", "GCMC"}


class SameRowsSampler(UniformSampler):
    """Uniform negatives whose rows are handed over as synthetic ones: nothing may change by that."""

    synthesizes = True

    def choose(
        self, users: torch.Tensor, positives: torch.Tensor, candidates: torch.Tensor, view: EmbeddingView
    ) -> Negatives:
        return Negatives(candidates, rows=view.item_rows(candidates.squeeze(1)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", PAIRWISE + POINTWISE)
def test_without_text_a_wrapped_model_is_the_bare_one_bit_for_bit(folder: Path, name: str) -> None:
    from recbole.utils import get_trainer, init_seed

    outcomes = []
    for values in ({}, NO_TEXT):
        model, loaders, config = made(folder, name, **values)
        loss = first_loss(model, loaders)
        init_seed(3, True)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        trainer.fit(loaders[0], loaders[1], saved=False)
        outcomes.append((loss, trainer.evaluate(loaders[2], load_best_model=False), dict(model.named_parameters())))
        assert (getattr(model, "hnlm", None) is not None) == bool(values)
    (bare_loss, bare_result, bare_weights), (loss, result, weights) = outcomes
    assert torch.equal(bare_loss, loss)
    assert bare_result == result
    for key, weight in bare_weights.items():
        assert torch.equal(weight, weights[key]), key


@pytest.mark.parametrize("name", [name for name in PAIRWISE + POINTWISE if name not in ONLY_IDS])
def test_synthetic_rows_equal_to_the_catalogues_change_neither_loss_nor_gradients(folder: Path, name: str) -> None:
    gradients, losses = [], []
    for sampler in ("uniform", SameRowsSampler):
        model, loaders, _ = made(folder, name, neg_sampler=sampler)
        losses.append(first_loss(model, loaders))
        gradients.append({key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=1e-7)
    assert gradients[0].keys() == gradients[1].keys()
    for key, expected in gradients[0].items():
        torch.testing.assert_close(gradients[1][key], expected, rtol=1e-4, atol=1e-7, msg=key)


@pytest.mark.parametrize("name", sorted(ONLY_IDS))
def test_models_that_read_ids_refuse_text_and_synthesis_and_take_selectors(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} reads items by id"):
        made(folder, name, neg_sampler="mixgcf")
    with pytest.raises(ValueError, match=f"{name} reads items by id"):
        made(folder, name, neg_sampler="hnlm", hnlm_artefact_dir=str(folder / "ids"), llm_teacher_epochs=1)
    model, loaders, _ = made(folder, name, neg_sampler="dns", neg_sampler_candidates=4)
    assert torch.isfinite(first_loss(model, loaders))


@pytest.mark.parametrize("name", [name for name in PAIRWISE + POINTWISE if name not in ONLY_IDS])
def test_text_reaches_base_and_projector_and_leaves_mode_and_random_state_alone(folder: Path, name: str) -> None:
    values = {
        "neg_sampler": "hnlm", "hnlm_base_sampler": "dns", "neg_sampler_candidates": 4, "hnlm_alpha": 0.4,
        "hnlm_detach": False, "hnlm_alignment_weight": 0.1, "hnlm_artefact_dir": str(folder / "artefacts"),
        "llm_cache_dir": str(folder / "cache"), "llm_teacher_epochs": 1, "hnlm_min_coverage": 0.1,
    }  # fmt: skip
    model, loaders, _ = made(folder, name, **values)
    loss = first_loss(model, loaders)
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.hnlm.text_head.projector.parameters())
    base = [p.grad for key, p in model.named_parameters() if not key.startswith("hnlm.") and p.grad is not None]
    assert any(grad.abs().sum() > 0 for grad in base)
    model.eval()
    users = torch.arange(1, 5)
    view = model.hnlm_view()
    state = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    model.hnlm.draw(users, users, view)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all() and random.getstate() == state[2]  # type: ignore[index]
    assert not model.training


def test_scores_are_unchanged_by_wrapping_and_state_round_trips(folder: Path) -> None:
    model, loaders, _ = made(folder, "LightGCN", neg_sampler="mixgcf", neg_sampler_candidates=4, fast_propagation=False)
    bare, _, _ = made(folder, "LightGCN")
    first_loss(model, loaders)
    state = copy.deepcopy(model.state_dict())
    bare.load_state_dict({key: value for key, value in state.items() if not key.startswith("hnlm.")})
    interaction = next(iter(loaders[2]))[0]
    assert torch.equal(bare.full_sort_predict(interaction), model.full_sort_predict(interaction))
    users = torch.arange(1, 9)
    drawn = model.hnlm.draw(users, users, model.hnlm_view()).ids
    model.load_state_dict(state)
    assert torch.equal(model.hnlm.draw(users, users, model.hnlm_view()).ids, drawn)


@pytest.mark.parametrize("negatives", [1, 3])
def test_several_negatives_enter_one_logarithm(folder: Path, negatives: int) -> None:
    model, loaders, _ = made(folder, "BPR", neg_sampler="uniform", neg_sampler_num=negatives)
    model.train()
    batch = next(iter(loaders[0]))
    assert len(batch) == 128 // negatives
    generator_state = model.hnlm.generator.get_state()
    loss = model.calculate_loss(batch).detach()
    model.hnlm.generator.set_state(generator_state)
    users, items = batch["user_id"].repeat(negatives), batch["item_id"].repeat(negatives)
    drawn = model.hnlm.draw(users, items, model.hnlm_view()).ids.view(negatives, -1)  # (K, B)
    with torch.no_grad():
        total = 0.0
        for row in range(len(batch)):
            user = model.user_embedding.weight[batch["user_id"][row]].double()
            gap = [
                float(
                    user
                    @ (model.item_embedding.weight[j] - model.item_embedding.weight[batch["item_id"][row]]).double()
                )
                for j in drawn[:, row]
            ]
            total += np.log1p(sum(np.exp(gap)))
    assert float(loss) == pytest.approx(total / len(batch), rel=1e-5)


def test_wrapping_twice_an_instance_or_a_model_without_negatives_raises(folder: Path) -> None:
    from recbole.model.general_recommender import EASE, LightGCN, MultiVAE

    assert hnlm(LightGCN) is hnlm(LightGCN)
    assert hnlm(LightGCN).__name__ == "LightGCN" and hnlm(LightGCN).input_type is LightGCN.input_type
    with pytest.raises(TypeError, match="wrapped already"):
        hnlm(hnlm(LightGCN))
    with pytest.raises(TypeError, match="takes a model class"):
        hnlm("LightGCN")  # type: ignore[arg-type]
    for model in (EASE, MultiVAE):
        assert refusal(model) is not None
        with pytest.raises(ValueError, match=f"{model.__name__}.*neg_sampler: none"):
            hnlm(model)
    model, *_ = made(folder, "BPR", neg_sampler="uniform")
    with pytest.raises(TypeError, match="pass the class"):
        hnlm(model)


def test_rules_that_a_model_cannot_follow_are_refused_by_name(folder: Path) -> None:
    with pytest.raises(ValueError, match="dins needs scores that are inner products, those of NeuMF are not"):
        made(folder, "NeuMF", neg_sampler="dins")
    with pytest.raises(ValueError, match="loss of SGL cannot take"):
        made(folder, "SGL", neg_sampler="softmax")


def test_mixgcf_pools_the_hops_that_lightgcn_averages(folder: Path) -> None:
    for name, hops in (
        ("LightGCN", 3),
        ("NGCF", 1),
        ("SGL", 3),
        ("NCL", None),
        ("BPR", 1),
        ("SimGCL", 2),
        ("XSimGCL", 1),
    ):
        model, _, config = made(folder, name, neg_sampler="mixgcf", neg_sampler_candidates=4)
        view = model.hnlm_view()
        assert view.n_hops == (hops or config["n_layers"] + 1), name


def test_a_model_that_copies_its_negative_ids_is_found_out(folder: Path) -> None:
    from recbole.model.general_recommender import BPR

    class CopyingBPR(BPR):
        def calculate_loss(self, interaction: Any) -> torch.Tensor:
            interaction[self.NEG_ITEM_ID] = interaction[self.NEG_ITEM_ID].clone()
            return super().calculate_loss(interaction)

    config = HNLMConfig(CopyingBPR, "tiny", config_dict=settings(folder, "BPR", neg_sampler="mixgcf"))
    loaders = prepare(config)
    model = build_model(config, loaders[0])
    batch = next(iter(loaders[0]))
    with pytest.raises(RuntimeError, match="CopyingBPR did not look its negatives up"):
        for _ in range(33):
            model.calculate_loss(batch)


@pytest.mark.parametrize("sampler", ["mixgcf", "dins", "dns"])
@pytest.mark.parametrize("name", ["LightGCN", "SGL", "NCL", "BPR", "NGCF", "SimGCL", "XSimGCL"])
def test_gradients_are_those_of_the_loss(folder: Path, name: str, sampler: str) -> None:
    """Central differences along the gradient itself: a rule whose rows lose their gradient on the way falls short."""
    values = {"eps": 1e-3} if "SimGCL" in name else {}  # noise jumps where a row changes its sign
    values |= {"neg_sampler": sampler, "neg_sampler_candidates": 4, "fast_propagation": True}
    model, loaders, _ = made(folder, name, **values)
    with torch.no_grad():
        for parameter in (model.user_embedding.weight, model.item_embedding.weight):
            parameter.mul_(3)
    loader = iter(loaders[0])
    batch = next(loader)
    model.eval()  # without dropout
    if name in {"SGL", "NCL", "XSimGCL"}:
        model.train()
    if name == "NCL":
        model.e_step()
    generators = [model.hnlm.generator, *([model.noise.generator] if "SimGCL" in name else [])]
    states = [generator.get_state() for generator in generators]

    def loss() -> torch.Tensor:
        seed_everything()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
        losses = model.calculate_loss(batch)
        return (losses[0] if isinstance(losses, tuple) else losses).sum()

    weights = [model.user_embedding.weight, model.item_embedding.weight]
    gradients = torch.autograd.grad(loss(), weights)
    length = float(sum(g.square().sum() for g in gradients) ** 0.5)
    step, values = 1e-2, []
    for sign in (1, -2):
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.add_(gradient / length, alpha=sign * step)
        values.append(float(loss().detach()))
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(length, rel=0.03)


@pytest.mark.parametrize("name", ["BPR", "LightGCN", "NeuMF"])
def test_a_wrapped_model_is_saved_whole_as_the_bare_one_is(folder: Path, name: str) -> None:
    model, loaders, _ = made(folder, name, neg_sampler="dns")
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert type(again) is type(model) and again.hnlm.sampler is not None
    for key, value in model.named_parameters():
        assert torch.equal(value, again.get_parameter(key))
    assert pickle.loads(pickle.dumps(type(model))) is type(model)
    assert torch.isfinite(first_loss(again, loaders))


def test_recboles_own_configuration_of_a_wrapped_class_writes_its_checkpoint(folder: Path, tmp_path: Path) -> None:
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.trainer import Trainer

    wrapped = hnlm(BPR)
    config = Config(wrapped, "tiny", config_dict=settings(folder, "BPR", checkpoint_dir=str(tmp_path), epochs=1))
    train_data, valid_data, _ = data_preparation(config, create_dataset(config))
    trainer = Trainer(config, wrapped(config, train_data._dataset))
    trainer.fit(train_data, valid_data, show_progress=False)
    stored = torch.load(trainer.saved_model_file, weights_only=False)
    assert stored["config"]["embedding_size"] == 8
