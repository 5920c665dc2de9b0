"""A ranking loss of ours inside wrapped models: what it replaces, what it leaves, who refuses it, and what it learns."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from recbole.model.loss import BPRLoss
from recbole_runs import USERS, first_loss, made, seed_everything, settings, write_dataset
from torch.nn import functional

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.config import HNLMConfig
from recbole_hnlm.models.ranking_losses import RANKING_LOSSES
from recbole_hnlm.models.ranking_term import seen_among
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.samplers import TrainingInteractions

FITTING = ("BPR", "LightGCN", "NGCF", "DGCF", "SpectralCF", "NCL", "SGL", "SimGCL", "XSimGCL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("name", ["BPR", "SGL"])
def test_base_is_no_key_at_all_bit_for_bit(folder: Path, name: str) -> None:
    results = [
        run_recbole_hnlm(name, "tiny", config_dict=settings(folder, name, neg_sampler="dns", **key), saved=False)
        for key in ({}, {"ranking_loss": "base"})
    ]
    assert results[0]["test_result"] == results[1]["test_result"]
    assert results[0]["best_valid_score"] == results[1]["best_valid_score"]


@pytest.mark.parametrize(
    ("name", "loss"),
    [*(("BPR", loss) for loss in RANKING_LOSSES), ("LightGCN", "sampled_softmax"), ("SGL", "psl"), ("SimGCL", "bsl")],
)
def test_what_is_learned(folder: Path, name: str, loss: str) -> None:
    """Two tastes of 40 items each, of which a user has seen 13: 20 items at random hold .3, 20 of the taste .74."""
    values = {"neg_sampler": "uniform", "ranking_loss": loss, "epochs": 12, "learning_rate": 0.05, "eval_step": 12}
    result = run_recbole_hnlm(
        name, "tiny", config_dict=settings(folder, name, **values, topk=[20]) | TWENTY, saved=False
    )
    assert result["test_result"]["recall@20"] > 0.5
    assert result["hnlm"]["options"]["ranking_loss"] == loss


TWENTY = {"valid_metric": "NDCG@20"}


@pytest.mark.parametrize("loss", ["sampled_softmax", "directau"])
@pytest.mark.parametrize("name", FITTING)
def test_the_rest_of_the_models_loss_stays(folder: Path, name: str, loss: str) -> None:
    """Base loss minus its ranking term equals our loss minus ours; both with the same draws."""
    rests = []
    for key in ({}, {"ranking_loss": loss}):
        model, loaders, _ = made(folder, name, neg_sampler="uniform", **key)
        terms: list[torch.Tensor] = []
        for module in model.modules():
            if isinstance(module, BPRLoss):
                module.register_forward_hook(lambda m, args, output, kept=terms: kept.append(output.detach()))
        if name == "SGL":
            terms.append(_ranking_of_sgl(model, loaders))
        total = first_loss(model, loaders)
        rests.append(total - terms[0])
        assert len(terms) == 1
    torch.testing.assert_close(rests[0], rests[1], rtol=1e-3, atol=2e-4 * float(terms[0].abs()))


def _ranking_of_sgl(model: Any, loaders: Any) -> torch.Tensor:
    """SGL's ranking term of the first batch: its method without the regularisation."""
    found = []
    method, weight = model.calc_bpr_loss, model.reg_weight

    def spied(*args: Any) -> Any:
        model.reg_weight = 0.0
        found.append(method(*args).detach())
        if model.hnlm.ranking is not None:
            model.hnlm.ranking._taken = 0
        model.reg_weight = weight
        return method(*args)

    state = model.hnlm.generator.get_state()
    model.calc_bpr_loss = spied
    first_loss(model, loaders)
    model.hnlm.generator.set_state(state)
    del model.calc_bpr_loss
    loaders[0].generator.manual_seed(loaders[0].config["seed"])
    return found[0]


def test_value_gradient_and_shared_negatives_of_a_step(folder: Path) -> None:
    """Sampled softmax over a whole catalogue of 80, by a loop over the batch."""
    values = {"neg_sampler": "uniform", "ranking_loss": "sampled_softmax", "ranking_loss_negatives": 5000}
    model, loaders, _ = made(folder, "BPR", **values)
    batch = next(iter(loaders[0]))
    users, items = model.user_embedding.weight.detach().double(), model.item_embedding.weight.detach().double()
    users, items = functional.normalize(users, dim=-1), functional.normalize(items, dim=-1)
    total, held = 0.0, model.hnlm.interactions
    for user, item in zip(batch["user_id"].tolist(), batch["item_id"].tolist(), strict=True):
        cosines = (items @ users[user] / 0.2).exp()
        free = [j for j in range(1, model.n_items) if not bool(held.contains(torch.tensor(user), torch.tensor(j)))]
        total -= float(torch.log(cosines[item] / (cosines[item] + cosines[free].sum())))
    loss = model.calculate_loss(batch)
    assert float(loss.detach()) == pytest.approx(total / len(batch), rel=1e-5)
    loss.backward()
    assert torch.isfinite(model.item_embedding.weight.grad).all()
    assert not model.hnlm.ranking.active


@pytest.mark.parametrize("count", [3, 79, 80, 500])
def test_drawn_negatives_are_distinct_items(folder: Path, count: int) -> None:
    values = {"neg_sampler": "uniform", "ranking_loss": "psl", "ranking_loss_negatives": count}
    model, *_ = made(folder, "BPR", **values)
    term, seen = model.hnlm.ranking, set()
    for _ in range(400 if count == 3 else 60):
        ids = term._drawn(count)
        assert ids.unique().numel() == ids.numel() == min(count, model.n_items - 1)
        seen |= set(ids.tolist())
    assert seen == set(range(1, model.n_items))
    term._interactions.n_items, items = 10_000, term._interactions.n_items  # too large for a permutation
    drawn = term._drawn(3)
    term._interactions.n_items = items
    assert drawn.unique().numel() == drawn.numel() and int(drawn.min()) >= 1


def test_of_a_large_catalogue_items_alone_are_drawn_and_again_from_the_same_state(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recbole_hnlm.models.ranking_term._CROWDED", 0)  # any catalogue is large
    model, *_ = made(folder, "BPR", neg_sampler="uniform", ranking_loss="psl", ranking_loss_negatives=3)
    term = model.hnlm.ranking
    state = term._generator.get_state()
    drawn = [term._drawn(3).tolist() for _ in range(400)]
    assert all(len(set(ids)) == len(ids) for ids in drawn)
    assert {item for ids in drawn for item in ids} == set(range(1, model.n_items))
    term._generator.set_state(state)
    assert [term._drawn(3).tolist() for _ in range(400)] == drawn


def test_seen_among_is_membership() -> None:
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randint(1, 12, (2, 30), generator=generator)
    interactions = TrainingInteractions(pairs[0], pairs[1], n_users=12, n_items=20)
    users, items = torch.tensor([3, 1, 11, 7]), torch.tensor([9, 2, 5, 18, 1])
    places = torch.zeros(20, dtype=torch.bool)
    places[seen_among(users, items, interactions)] = True
    expected = interactions.contains(users.unsqueeze(1), items.unsqueeze(0))
    assert torch.equal(places.view(4, 5), expected) and bool(expected.any()) and not bool(expected.all())
    assert seen_among(users[:0], items, interactions).numel() == 0


def test_a_step_repeats_after_its_state_is_restored_and_a_copy_trains(folder: Path) -> None:
    model, loaders, _ = made(folder, "LightGCN", neg_sampler="uniform", ranking_loss="bsl", ranking_loss_negatives=9)
    batch, state = next(iter(loaders[0])), copy.deepcopy(model.state_dict())
    losses = [model.calculate_loss(batch).detach() for _ in range(2)]
    assert losses[0] != losses[1]
    model.load_state_dict(state)
    assert torch.equal(model.calculate_loss(batch).detach(), losses[0])
    copied = copy.deepcopy(model)
    assert torch.equal(copied.calculate_loss(batch), model.calculate_loss(batch))


REFUSED = [
    ("NeuMF", {}, "ranking_loss=directau cannot train NeuMF, which has no user rows of the items' width"),
    ("GCMC", {}, "cannot train GCMC, which has no user rows"),
    ("SimpleX", {}, "cannot train SimpleX, which has no"),
    ("ConvNCF", {}, "cannot train ConvNCF, which has no"),
    ("BPR", {"neg_sampler": "dns"}, "directau draws no negatives, so those of dns would have no effect.*uniform"),
    ("BPR", {"neg_sampler_guard": "score", "neg_sampler_guard_max_score": 1.0}, "so neg_sampler_guard=score guards none"),
    ("BPR", {"neg_sampler_num": 2}, "directau draws no negatives, so neg_sampler_num=2 has no effect"),
    ("BPR", {"neg_sampler": "none"}, "ranking_loss has no effect here: RecBole trains this model by itself"),
    ("BPR", {"ranking_loss": "bsl", "ranking_loss_gamma": 2.0}, "ranking_loss_gamma has no effect.*=directau.*uses bsl"),
    ("BPR", {"ranking_loss": "base", "ranking_loss_gamma": 2.0}, "ranking_loss_gamma has no effect.*this run uses base"),
    ("BPR", {"ranking_loss_temperature": 2.0}, "ranking_loss_temperature has no effect.*sampled_softmax | bsl | psl"),
    ("BPR", {"ranking_loss": "sampled_sofmax"}, "'sampled_sofmax' is not one of.*did you mean 'sampled_softmax'"),
    ("BPR", {"ranking_loss_gama": 1.0}, "unknown option 'ranking_loss_gama'; did you mean 'ranking_loss_gamma'"),
    ("BPR", {"ranking_loss_gamma": -1.0}, "ranking_loss_gamma=-1.0 must be at least 0"),
    ("BPR", {"ranking_loss": "psl", "ranking_loss_activation": "tan"}, "activation='tan' is not one of.*'tanh'"),
    ("BPR", {"ranking_loss_gamma": float("nan")}, "ranking_loss_gamma=nan should be a finite number"),
    ("BPR", {"ranking_loss": "bsl", "ranking_loss_temperature": float("inf")}, "ranking_loss_temperature=inf should be"),
    ("BPR", {"ranking_loss": "psl", "ranking_loss_temperature": 0.0}, "ranking_loss_temperature=0.0 must be above 0"),
    ("BPR", {"ranking_loss": "psl", "ranking_loss_temperature": 0.01}, "ranking_loss_temperature=0.01 must be at least 0.015"),
    ("BPR", {"ranking_loss": "bsl", "neg_sampler": "mixgcf"}, "bsl draws its own negatives, so those of mixgcf"),
    ("BPR", {"neg_sampler": "hnlm", "hnlm_base_sampler": "uniform", "hnlm_alpha": 0.3}, "text.*no effect; set hnlm_alpha: 0"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "values", "message"), REFUSED)
def test_what_makes_no_sense_is_refused_with_the_remedy(
    folder: Path, name: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(folder, name, **{"neg_sampler": "uniform", "ranking_loss": "directau"} | values)


def test_base_beside_no_sampler_says_nothing_wrong(folder: Path) -> None:
    model, *_ = made(folder, "BPR", neg_sampler="none", ranking_loss="base")
    assert getattr(model, "hnlm", None) is None


@pytest.mark.slow
def test_text_that_aligns_and_recboles_own_draws_go_with_it(folder: Path) -> None:
    text = {
        "neg_sampler": "hnlm", "hnlm_base_sampler": "uniform", "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.1,
        "hnlm_artefact_dir": str(folder / "artefacts"), "llm_cache_dir": str(folder / "cache"),
        "llm_teacher_epochs": 1,
    }  # fmt: skip
    drawn = {"neg_sampler": "hnlm", "hnlm_base_sampler": "recbole", "hnlm_alpha": 0.0, "hnlm_alignment_weight": 0.0,
             "hnlm_init": "random"}  # fmt: skip
    for values in (text, drawn):
        model, loaders, _ = made(folder, "LightGCN", ranking_loss="sampled_softmax", **values)
        assert torch.isfinite(first_loss(model, loaders))
        taken = model.hnlm.statistics.epoch_means()
        assert ("alignment_loss" in taken) is (values is text)


def test_a_model_that_never_asks_for_its_bpr_loss_is_found_out(folder: Path) -> None:
    from recbole.model.general_recommender import BPR

    class OwnLossBPR(BPR):
        def calculate_loss(self, interaction: Any) -> torch.Tensor:
            user, item, other = (interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID))
            user_e, item_e = self.forward(user, item)
            return functional.softplus(((self.get_item_embedding(other) - item_e) * user_e).sum(dim=1)).mean()

    config = HNLMConfig(
        OwnLossBPR, "tiny", config_dict=settings(folder, "BPR", neg_sampler="uniform", ranking_loss="bsl")
    )
    loaders = prepare(config)
    model = build_model(config, loaders[0])
    with pytest.raises(RuntimeError, match="OwnLossBPR computed its BPRLoss 0 times.*set ranking_loss: base"):
        model.calculate_loss(next(iter(loaders[0])))
    seed_everything()
    assert model.n_users == USERS + 1


@pytest.mark.parametrize(("name", "sums"), [("SGL", True), ("ConvNCF", True), ("LightGCN", False)])
def test_added_terms_count_as_often_as_the_base_counts_pairs(folder: Path, name: str, sums: bool) -> None:
    """A mean that joins a sum over pairs has to count once a pair, or a larger batch would weigh it less."""
    model, (loader, *_), _ = made(folder, name, neg_sampler="uniform", train_batch_size=128)
    term = torch.tensor(1.0, requires_grad=True)
    model.hnlm.__dict__["extra_losses"] = lambda *given: {"added": term}
    model.train()
    batch = next(iter(loader))
    for size in (128, 64):
        term.grad = None
        loss = model.calculate_loss(batch[torch.arange(size)])
        (sum(loss) if isinstance(loss, tuple) else loss).backward()
        assert term.grad == (size if sums else 1)
