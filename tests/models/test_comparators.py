"""The LLM-enhanced comparators: every formula against a naive loop in float64, and what they may not change."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from recbole.trainer import Trainer
from recbole_runs import PAIRWISE, POINTWISE, first_loss, settings, write_dataset
from torch import Tensor

from recbole_hnlm import run_recbole_hnlm
from recbole_hnlm.building.reference import ensure_reference
from recbole_hnlm.config import HNLMConfig, PlainConfig
from recbole_hnlm.export import export_checkpoint, plain_state
from recbole_hnlm.llm import sharding
from recbole_hnlm.models.comparators.base import Step, read_instead
from recbole_hnlm.models.comparators.llmrec import kept_triples, pick_by_text
from recbole_hnlm.models.comparators.reference import best_unseen
from recbole_hnlm.models.contrast import contrast
from recbole_hnlm.quick_start import build_model, prepare
from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.training.watching import watching

ALL = ("rlmrec_con", "rlmrec_gen", "kar", "llmrec")
MERGING = ("kar", "llmrec")
ONLY_IDS = {"DMF", "GCMC"}
FITTING = [
    *((name, "rlmrec_con") for name in PAIRWISE + POINTWISE if name not in ONLY_IDS),
    *((name, "rlmrec_gen") for name in ("LightGCN", "SGL", "NCL", "NGCF", "DGCF", "SpectralCF")),
    *((name, method) for method in MERGING for name in ("BPR", "LightGCN", "SGL", "NCL", "NGCF")),
]
LIVELY = {"llmrec": {"comparator_user_share": 1.0, "comparator_drop_share": 0.0, "comparator_weight": 1.0}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data"))


def values_of(folder: Path, method: str, **values: Any) -> dict[str, Any]:
    return {"neg_sampler": "hnlm", "hnlm_comparator": method, "llm_teacher_epochs": 1,
            "hnlm_artefact_dir": str(folder / "artefacts"), "llm_cache_dir": str(folder / "cache"),
            "checkpoint_dir": str(folder / "saved"), **values}  # fmt: skip


def made(folder: Path, name: str, method: str, **values: Any) -> tuple[Any, Any]:
    config = HNLMConfig(name, "tiny", config_dict=settings(folder, name, **values_of(folder, method, **values)))
    loaders = prepare(config)
    return build_model(config, loaders[0]), loaders


def run(folder: Path, name: str, method: str, **values: Any) -> dict[str, Any]:
    return run_recbole_hnlm(name, "tiny", config_dict=settings(folder, name, **values_of(folder, method, **values)))


def step_of(model: Any) -> Step:
    """A step of six pairs, with a repeated item, on the model's rows of this moment."""
    users, positives, negatives = (torch.tensor(ids) for ids in ([1, 2, 3, 4, 5, 1], [7, 8, 9, 7, 3, 4], [5, 6] * 3))
    return Step(users, positives, negatives, model.hnlm_view(), model.hnlm.generator)


def unit(row: Tensor) -> np.ndarray:
    vector = row.detach().double().numpy()
    return vector / np.linalg.norm(vector)


def naive_contrast(row: Tensor, own: Tensor, pool: list[Tensor], temperature: float) -> float:
    anchor = unit(row)
    total = sum(math.exp(float(anchor @ unit(text)) / temperature) for text in pool)
    return -math.log(math.exp(float(anchor @ unit(own)) / temperature) / total)


class TestContrast:
    @pytest.mark.parametrize("block", [1, 1 << 19])
    @pytest.mark.parametrize("temperature", [0.01, 0.2, 1.0])
    def test_equals_the_loop_and_its_gradients(
        self, monkeypatch: pytest.MonkeyPatch, temperature: float, block: int
    ) -> None:
        monkeypatch.setitem(contrast.__globals__, "_BLOCK_ENTRIES", block)
        generator = torch.Generator().manual_seed(1)
        anchors, pool = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (37, 41))
        expected = [naive_contrast(anchors[b], pool[b], list(pool), temperature) for b in range(37)]
        assert float(contrast(anchors, pool[:37], pool, temperature)) == pytest.approx(sum(expected), rel=1e-9)
        inputs = (anchors.requires_grad_(), pool.requires_grad_())
        assert torch.autograd.gradcheck(lambda a, p: contrast(a[:17], p[:17], p[:20], temperature), inputs)

    @pytest.mark.parametrize("temperature", [0.01, 0.3])
    def test_a_drawn_pool_leaves_own_texts_to_join_once(self, temperature: float) -> None:
        rows, pool = (torch.randn(n, 4, generator=torch.Generator().manual_seed(n)).double() for n in (3, 4))
        ids, pool_ids = torch.tensor([4, 5, 6]), torch.tensor([5, 9, 5, 4])
        expected = 0.0
        for b in range(3):
            others = [pool[p] for p in range(4) if pool_ids[p] != ids[b]]
            expected += naive_contrast(rows[b], rows[b].flip(0), [rows[b].flip(0), *others], temperature)
        found = contrast(rows, rows.flip(1), pool, temperature, ids=(ids, pool_ids))
        assert float(found) == pytest.approx(expected, rel=1e-9)
        inputs = (rows.requires_grad_(), pool.requires_grad_())
        assert torch.autograd.gradcheck(lambda a, p: contrast(a, a.flip(1), p, temperature, (ids, pool_ids)), inputs)

    @pytest.mark.parametrize("block", [1, 1 << 19])
    @pytest.mark.parametrize("drawn", [False, True])
    def test_counting_an_anchor_is_repeating_it(self, monkeypatch: pytest.MonkeyPatch, drawn: bool, block: int) -> None:
        monkeypatch.setitem(contrast.__globals__, "_BLOCK_ENTRIES", block)
        generator = torch.Generator().manual_seed(1)
        rows, pool = (torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in (37, 41))
        counts = torch.arange(37) % 3 + 1
        repeated = torch.repeat_interleave(counts)
        ids, pool_ids = torch.arange(37), torch.arange(41) % 9

        def grads(which: Tensor, counts: Tensor | None) -> tuple[Tensor, ...]:
            inputs = (rows.clone().requires_grad_(), pool.clone().requires_grad_())
            own = (ids[which], pool_ids) if drawn else None
            loss = contrast(inputs[0][which], inputs[1][which], inputs[1], 0.2, own, counts)
            return (loss, *torch.autograd.grad(loss, inputs))

        for found, expected in zip(grads(ids, counts), grads(repeated, None), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("temperature", [0.01, 0.035, 0.2])
    def test_opposite_rows_in_single_precision_stay_finite(self, temperature: float) -> None:
        row = torch.tensor([[1.0, 0.0]])
        assert float(contrast(row, -row, -row, temperature)) == pytest.approx(0.0, abs=1e-4)

    def test_without_anchors_it_is_zero(self) -> None:
        assert float(contrast(torch.zeros(0, 3), torch.zeros(0, 3), torch.ones(2, 3), 0.2)) == 0.0


class TestRLMRecCon:
    @pytest.mark.parametrize("name", ["BPR", "LightGCN"])
    def test_the_term_is_the_formula(self, folder: Path, name: str) -> None:
        model, _ = made(folder, name, "rlmrec_con", comparator_weight=0.5, comparator_temperature=0.3)
        comparator = model.hnlm.comparator
        text = comparator.text
        text.item_mask[8] = False  # a positive without text
        text.user_mask[3] = False
        step = step_of(model)
        users = {u: comparator.projector(text.users[u]) for u in range(1, model.n_users) if text.user_mask[u]}
        total = 0.0
        for u in step.users.tolist():
            if u in users:
                total += naive_contrast(step.view.user_rows(torch.tensor([u]))[0], users[u], [*users.values()], 0.3)
        for ids in (step.positives.tolist(), step.negatives.tolist()):
            texts = [(i, comparator.projector(text.items[i])) for i in ids if text.item_mask[i]]
            for i, own in texts:
                row = step.view.item_rows(torch.tensor([i]))[0]
                total += naive_contrast(row, own, [other for _, other in texts], 0.3)
        assert float(comparator.loss(step)) == pytest.approx(0.5 / 6 * total, rel=1e-5)

    def test_of_many_users_some_are_drawn(self, folder: Path) -> None:
        model, _ = made(folder, "BPR", "rlmrec_con", comparator_negatives=5)
        comparator, step = model.hnlm.comparator, step_of(model)
        state = step.generator.get_state()
        found = float(comparator._users(step))
        step.generator.set_state(state)
        known = torch.nonzero(comparator.text.user_mask).flatten()
        drawn = known[torch.randint(known.numel(), (5,), generator=step.generator)].tolist()
        project = {u: comparator.projector(comparator.text.users[u]) for u in {*drawn, *step.users.tolist()}}
        total = sum(
            naive_contrast(
                step.view.user_rows(torch.tensor([u]))[0],
                project[u],
                [project[u], *(project[d] for d in drawn if d != u)],
                0.2,
            )  # fmt: skip
            for u in step.users.tolist()
        )
        assert found == pytest.approx(total, rel=1e-5)
        assert float(comparator._users(step)) != found


class TestRLMRecGen:
    def test_masks_are_new_in_every_step_seeded_and_never_padding(self, folder: Path) -> None:
        seen = []
        for _ in range(2):
            model, _ = made(folder, "LightGCN", "rlmrec_gen", comparator_mask_share=0.2)
            comparator, weights = model.hnlm.comparator, (model.user_embedding.weight, model.item_embedding.weight)
            for _ in range(3):
                rows = comparator.step_rows(*weights, model.hnlm.generator)
                masked = [ids.tolist() for ids in comparator.masked]
                assert sum(map(len, masked)) == int(0.2 * (model.n_users + model.n_items - 2))
                for ids, made_of, own in zip(masked, rows, weights, strict=True):
                    assert 0 not in ids and len(set(ids)) == len(ids)
                    kept = [row for row in range(len(own)) if row not in set(ids)]
                    assert torch.equal(made_of[kept], own[kept])
                    assert torch.equal(made_of[ids], comparator.token.expand(len(ids), -1))
                seen.append(masked)
        assert seen[:3] == seen[3:]
        assert seen[0] != seen[1] != seen[2]

    @pytest.mark.parametrize("limit", [4096, 7])
    def test_the_term_is_the_formula(self, folder: Path, limit: int) -> None:
        values = {"comparator_weight": 0.5, "comparator_temperature": 0.3, "comparator_negatives": limit}
        model, _ = made(folder, "NGCF", "rlmrec_gen", **values)  # final rows are wider than own ones
        comparator, step = model.hnlm.comparator, step_of(model)
        comparator.masked = torch.tensor([2, 5, 9, 11]), torch.tensor([1, 4, 6, 30, 31])
        comparator.text.item_mask[6] = False
        nodes = [
            *((step.view.user_rows(u.view(1))[0], comparator.text.users[u]) for u in comparator.masked[0]),
            *((step.view.item_rows(i.view(1))[0], comparator.text.items[i]) for i in comparator.masked[1] if i != 6),
        ]
        state = step.generator.get_state()
        found = float(comparator.loss(step))
        step.generator.set_state(state)
        if limit < len(nodes):
            order = torch.randperm(len(nodes), generator=step.generator)[:limit]
            nodes = [nodes[place] for place in order]
        texts = [text for _, text in nodes]
        losses = [naive_contrast(comparator.decoder(row), text, texts, 0.3) for row, text in nodes]
        assert found == pytest.approx(0.5 * float(np.mean(losses)), rel=1e-5)

    def test_the_ranking_loss_sees_the_masks_and_evaluation_does_not(self, folder: Path) -> None:
        model, loaders = made(folder, "LightGCN", "rlmrec_gen", comparator_mask_share=0.9)
        first_loss(model, loaders)
        assert model.hnlm.comparator.token.grad.abs().sum() > 0
        plain = build_model(PlainConfig("LightGCN", "tiny", config_dict=settings(folder, "LightGCN")), loaders[0])
        plain.load_state_dict(plain_state(model.state_dict()))
        batch = next(iter(loaders[2]))[0]
        model.eval(), plain.eval()
        torch.testing.assert_close(model.full_sort_predict(batch), plain.full_sort_predict(batch))


class TestMergedRows:
    @pytest.mark.parametrize("name", ["BPR", "LightGCN"])
    def test_kar_is_the_formula(self, folder: Path, name: str) -> None:
        model, _ = made(folder, name, "kar", comparator_shared_experts=1, comparator_own_experts=3)
        comparator = model.hnlm.comparator
        comparator.text.item_mask[4] = False
        tables = comparator.merged()
        sides = (("user", comparator.text.users, comparator.text.user_mask),
                 ("item", comparator.text.items, comparator.text.item_mask))  # fmt: skip
        for table, (side, text, mask) in zip(tables, sides, strict=True):
            own, mixture = getattr(comparator, f"{side}_rows"), getattr(comparator, f"{side}_experts")
            back = getattr(comparator, f"{side}_back")
            assert len(mixture.shared) == 1 and len(mixture.own) == 3
            for row in (0, 1, 4, 9):
                logits = (mixture.gate.weight @ text[row] + mixture.gate.bias).detach().double().numpy()
                gates = np.exp(logits) / np.exp(logits).sum()
                said = np.zeros(32)
                for gate, expert in zip(gates, [*mixture.shared, *mixture.own], strict=True):
                    first, _, last = expert
                    hidden = (first.weight @ text[row] + first.bias).detach().double().numpy()
                    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
                    said += gate * (last.weight.detach().double().numpy() @ hidden + last.bias.detach().numpy())
                joined = np.concatenate([own[row].detach().double().numpy(), said])
                expected = back.weight.detach().double().numpy() @ joined + back.bias.detach().numpy()
                if not mask[row]:
                    expected = own[row].detach().numpy()
                np.testing.assert_allclose(table[row].detach().numpy(), expected, atol=1e-6)
        assert comparator.user_experts.shared is comparator.item_experts.shared
        assert comparator.user_experts.own is not comparator.item_experts.own
        assert comparator.user_experts.gate is not comparator.item_experts.gate

    def test_llmrec_adds_text_of_one_length(self, folder: Path) -> None:
        model, _ = made(folder, "BPR", "llmrec", comparator_text_weight=0.7)
        comparator = model.hnlm.comparator
        comparator.text.item_mask[4] = False
        users, items = comparator.merged()
        assert torch.equal(items[4], comparator.item_rows[4])
        for row in (1, 7):
            projected = unit(comparator.item_projection(comparator.text.items[row]))
            own = comparator.item_rows[row].detach().double().numpy()
            np.testing.assert_allclose(items[row].detach().numpy(), own + 0.7 * projected, atol=1e-6)
        added = (users - comparator.user_rows)[comparator.text.user_mask].norm(dim=1)
        torch.testing.assert_close(added, torch.full_like(added, 0.7))

    @pytest.mark.parametrize("drop", [0.0, 0.5])
    def test_llmrecs_extra_triples_are_bpr_without_the_worst(self, folder: Path, drop: float) -> None:
        values = {"comparator_user_share": 1.0, "comparator_weight": 0.5, "comparator_drop_share": drop}
        model, _ = made(folder, "LightGCN", "llmrec", **values)
        comparator, step = model.hnlm.comparator, step_of(model)
        losses = []
        for user in step.users.tolist():
            if comparator.has_pick[user]:
                row = step.view.user_rows(torch.tensor([user]))[0].detach().double()
                like, dislike = (
                    step.view.item_rows(picks[user].view(1))[0].detach().double()
                    for picks in (comparator.likes, comparator.dislikes)
                )
                losses.append(math.log(1 + math.exp(-float(row @ (like - dislike)))))
        kept = sorted(losses)[: max(1, round((1 - drop) * len(losses)))]
        assert len(losses) > 3
        assert float(comparator.loss(step)) == pytest.approx(0.5 * float(np.mean(kept)), rel=1e-5)

    def test_llmrecs_extra_triples_are_of_a_share_of_the_batch_and_of_users_who_have_a_pick(self, folder: Path) -> None:
        values = {"comparator_user_share": 0.5, "comparator_weight": 1.0, "comparator_drop_share": 0.0}
        model, _ = made(folder, "BPR", "llmrec", **values)
        comparator, step = model.hnlm.comparator, step_of(model)
        state = step.generator.get_state()
        drawn = step.users[torch.randperm(6, generator=step.generator)[:3]]
        comparator.has_pick[drawn[0]] = False
        users = drawn[comparator.has_pick[drawn]]
        assert 0 < len(users) < 3
        gap = step.view.item_rows(comparator.likes[users]) - step.view.item_rows(comparator.dislikes[users])
        expected = torch.nn.functional.softplus(-(step.view.user_rows(users) * gap).sum(dim=1)).mean()
        step.generator.set_state(state)
        torch.testing.assert_close(comparator.loss(step), expected)
        comparator.has_pick[:] = False
        assert comparator.loss(step) is None

    def test_kept_triples(self) -> None:
        losses = torch.tensor([4.0, 1.0, 3.0, 2.0])
        assert sorted(kept_triples(losses, 0.5).tolist()) == [1.0, 2.0]
        assert kept_triples(losses, 0.99).tolist() == [1.0]

    def test_picks_are_the_nearest_and_the_farthest_in_text(self) -> None:
        class Text:
            users = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
            user_mask = torch.tensor([False, True, True, True])
            items = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.0, 0.0]])
            item_mask = torch.tensor([False, True, True, True, False])

        top = torch.tensor([[1, 2, 3], [3, 2, 1], [4, 2, 3], [4, 4, 1]])
        likes, dislikes, has = pick_by_text(Text(), top)  # type: ignore[arg-type]
        assert has.tolist() == [False, True, True, False]
        assert (likes[1], dislikes[1], likes[2], dislikes[2]) == (1, 3, 3, 2)

    def test_the_references_best_items_are_unseen(self) -> None:
        generator = torch.Generator().manual_seed(5)
        users, items = torch.randn(6, 3, generator=generator), torch.randn(9, 3, generator=generator)
        pairs = {1: [2, 3], 2: [1], 3: [8, 7, 6], 4: [5], 5: [4, 8]}
        ids = [(u, i) for u, seen in pairs.items() for i in seen]
        interactions = TrainingInteractions(*torch.tensor(ids).T, n_users=6, n_items=9)
        best = best_unseen(users, items, interactions, 4)
        for user, seen in pairs.items():
            unseen = [i for i in range(1, 9) if i not in seen]
            expected = sorted(unseen, key=lambda i: -float(users[user] @ items[i]))[:4]
            assert best[user].tolist() == expected

    def test_the_references_best_items_of_many_users_are_unseen(self) -> None:
        """So many items that users come in blocks of four; every user has seen the last item but its own number."""
        n_items = 1 << 22
        users, items = torch.ones(11, 1), torch.arange(n_items).float().unsqueeze(1)
        owners = torch.arange(1, 11)
        interactions = TrainingInteractions(owners, n_items - owners, n_users=11, n_items=n_items)
        best = best_unseen(users, items, interactions, 3)
        for user in owners.tolist():
            assert best[user].tolist() == [n_items - place for place in range(1, 5) if place != user][:3]

    @pytest.mark.parametrize("count", [6, 20])
    def test_a_user_with_fewer_unseen_items_has_those(self, count: int) -> None:
        users, items = torch.ones(4, 1), torch.arange(9.0).unsqueeze(1)
        pairs = {1: [1], 2: [1, 2, 3, 4, 5, 8], 3: [1, 2, 3, 4, 5, 6, 7]}
        ids = torch.tensor([(u, i) for u, seen in pairs.items() for i in seen])
        best = best_unseen(users, items, TrainingInteractions(*ids.T, n_users=4, n_items=9), count)
        expected = [[8, 7, 6, 5, 4, 3, 2], [7, 6], [8]]
        assert best.shape == (4, count)
        for user, wanted in enumerate(expected, start=1):
            assert best[user].tolist() == (wanted + [0] * count)[:count]
        ids = torch.tensor([(user, item) for user in (1, 2) for item in range(1, 8)])
        with pytest.raises(ValueError, match="of which no user has two; set comparator_weight: 0"):
            best_unseen(users, items, TrainingInteractions(*ids.T, n_users=3, n_items=9), count)

    def test_a_user_without_a_choice_stops_no_run(self, tmp_path: Path) -> None:
        """The first user has every item but one, the second every item but four."""
        inter = write_dataset(tmp_path) / "tiny" / "tiny.inter"
        kept = [line for line in inter.read_text().splitlines() if line.split("\t")[0] not in ("u0", "u1")]
        kept += [f"u{user}\ti{item}\t5\t{item}" for user, first in ((0, 1), (1, 4)) for item in range(first, 80)]
        inter.write_text("\n".join(kept) + "\n")
        split = {"eval_args": {"split": {"RS": [1.0, 0.0, 0.0]}, "order": "RO", "group_by": "user"}}
        model, loaders = made(tmp_path, "BPR", "llmrec", **split, **LIVELY["llmrec"])
        assert torch.isfinite(first_loss(model, loaders))
        dataset = loaders[0]._dataset
        has, known = model.hnlm.comparator.has_pick, model.hnlm.comparator.text.user_mask
        few = dataset.token2id("user_id", ["u0", "u1"])
        unseen = 80 - np.bincount(dataset.inter_feat["user_id"].numpy(), minlength=61)
        assert unseen[few].tolist() == [1, 4] and has.tolist() == [bool(known[u]) and unseen[u] > 1 for u in range(61)]
        comparator = model.hnlm.comparator
        assert (comparator.likes[has] > 0).all() and (comparator.dislikes[has] > 0).all()


@pytest.mark.parametrize(("name", "method"), FITTING)
def test_gradients_reach_the_base_and_every_part(folder: Path, name: str, method: str) -> None:
    model, loaders = made(folder, name, method, **LIVELY.get(method, {}))
    assert torch.isfinite(first_loss(model, loaders))
    parts = dict(model.hnlm.comparator.named_parameters())
    assert parts and all(p.grad is not None and p.grad.abs().sum() > 0 for p in parts.values())
    base = [p for key, p in model.named_parameters() if not key.startswith("hnlm.") and p.grad is not None]
    if method not in MERGING:
        assert any(p.grad.abs().sum() > 0 for p in base)
    assert all("weight" not in module.__dict__ for module in model.modules())


@pytest.mark.parametrize(
    ("name", "method", "weights"),
    [
        *((name, "rlmrec_con", {"comparator_weight": 0}) for name in ("BPR", "LightGCN", "SGL", "XSimGCL")),
        *((name, "rlmrec_gen", {"comparator_weight": 0}) for name in ("LightGCN", "SGL")),
        *((name, "llmrec", {"comparator_weight": 0, "comparator_text_weight": 0}) for name in ("BPR", "LightGCN")),
    ],
)
def test_at_weight_zero_the_run_is_the_bare_models(
    folder: Path, name: str, method: str, weights: dict[str, Any]
) -> None:
    fast = {"learning_rate": 0.05}
    cache = folder / f"weight zero {name} {method}"
    apart = {"hnlm_base_sampler": "recbole", "llm_cache_dir": str(cache)}
    bare_values = settings(folder, name, neg_sampler="none", **fast)
    bare = run_recbole_hnlm(name, "tiny", config_dict=bare_values, saved=False)
    run_values = settings(folder, name, **values_of(folder, method, **apart, **weights, **fast))
    found = run_recbole_hnlm(name, "tiny", config_dict=run_values, saved=False)
    assert found["test_result"] == bare["test_result"] and found["best_valid_result"] == bare["best_valid_result"]
    assert not list(cache.glob("reference-*"))  # nobody reads it
    other = {**run_values, "comparator_weight": 5.0}
    assert run_recbole_hnlm(name, "tiny", config_dict=other, saved=False)["test_result"] != bare["test_result"]


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("BPR", method) for method in ALL if method != "rlmrec_gen"),
        *(("LightGCN", method) for method in ALL),
        *(("SGL", method) for method in ALL),
    ],
)
def test_a_run_trains_tells_and_survives_its_checkpoint_and_export(folder: Path, name: str, method: str) -> None:
    from safetensors.torch import load_file

    result = run(folder, name, method, hnlm_base_sampler="dns", neg_sampler_candidates=4, **LIVELY.get(method, {}))
    told = result["hnlm"]["negatives"]
    assert result["hnlm"]["options"]["neg_sampler"] == f"{method}(dns)"
    assert all(("comparator_loss" in means) is (method != "kar") for means in told)
    path = Path(result["hnlm"]["checkpoint"])
    model, loaders = made(folder, name, method, hnlm_base_sampler="dns", neg_sampler_candidates=4)
    before = model.state_dict()["user_embedding.weight"].clone()
    model.load_state_dict(torch.load(path, weights_only=False)["state_dict"])
    model.eval()
    assert not torch.equal(before, model.user_embedding.weight)
    plain = build_model(PlainConfig(name, "tiny", config_dict=settings(folder, name)), loaders[0])
    plain.load_state_dict(load_file(export_checkpoint(path, folder / "exported")[0]))
    plain.eval()
    batch = next(iter(loaders[2]))[0]
    torch.testing.assert_close(model.full_sort_predict(batch), plain.full_sort_predict(batch), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", MERGING)
def test_a_checkpoint_of_other_text_is_told(folder: Path, method: str, caplog: pytest.LogCaptureFixture) -> None:
    model, _ = made(folder, "LightGCN", method)
    same, _ = made(folder, "LightGCN", method)
    same.load_state_dict(model.state_dict())
    assert "trained on other text vectors" not in caplog.text
    other, _ = made(folder, "LightGCN", method, hnlm_user_text="items")
    other.load_state_dict(model.state_dict())
    assert "trained on other text vectors" in caplog.text


@pytest.mark.parametrize("method", MERGING)
def test_what_is_evaluated_follows_every_step(folder: Path, method: str) -> None:
    model, loaders = made(folder, "LightGCN", method)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, fused=True)
    batch, scores = next(iter(loaders[2]))[0], []
    for _ in range(2):
        first_loss(model, loaders)
        optimizer.step()
        pair = torch.tensor([1]), torch.arange(model.n_items).unsqueeze(0)
        seen = model.hnlm_view().score(*pair)
        model.eval()
        torch.testing.assert_close(model.item_embedding.weight, model.hnlm.comparator.merged()[1])
        scores.append(model.full_sort_predict(batch))
        torch.testing.assert_close(seen, model.hnlm_view().score(*pair))
    assert not torch.allclose(scores[0], scores[1])
    names = {key for key, parameter in model.named_parameters() if not parameter.requires_grad}
    assert names == {"user_embedding.weight", "item_embedding.weight"}


@pytest.mark.parametrize("method", MERGING)
def test_between_epochs_the_embeddings_are_those_trained_last(folder: Path, method: str) -> None:
    """NCL clusters them there."""
    config = HNLMConfig("BPR", "tiny", config_dict=settings(folder, "BPR", **values_of(folder, method)))
    loaders = prepare(config)
    trainer = watching(Trainer)(config, build_model(config, loaders[0]))
    trainer._train_epoch(loaders[0], 0)
    torch.testing.assert_close(trainer.model.user_embedding.weight, trainer.model.hnlm.comparator.merged()[0])


@pytest.mark.parametrize("method", MERGING)
def test_a_checkpoint_amid_an_epoch_holds_the_rows_of_the_last_step(folder: Path, method: str) -> None:
    model, loaders = made(folder, "BPR", method)
    first_loss(model, loaders)
    torch.optim.Adam(model.parameters(), lr=0.1).step()
    state, merged = model.state_dict(), model.hnlm.comparator.merged()
    torch.testing.assert_close((state["user_embedding.weight"], state["item_embedding.weight"]), merged)


def test_weights_are_made_from_the_seed(folder: Path, tmp_path: Path) -> None:
    weights = []
    for seed in (4, 4, 5):  # another seed is another split, so it has artefacts of its own
        artefacts = str(tmp_path / str(seed))
        model, _ = made(folder, "BPR", "rlmrec_con", seed=seed, hnlm_artefact_dir=artefacts)
        weights.append(model.hnlm.comparator.projector[0].weight)
    first, again, other = weights
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("method", ALL)
@pytest.mark.parametrize("control", ["permuted", "gaussian"])
def test_controls_change_the_run(folder: Path, method: str, control: str) -> None:
    honest, loaders = made(folder, "LightGCN", method, **LIVELY.get(method, {}))
    other, _ = made(folder, "LightGCN", method, hnlm_control=control, **LIVELY.get(method, {}))
    assert not torch.equal(honest.hnlm.comparator.text.items, other.hnlm.comparator.text.items)
    assert not torch.equal(first_loss(honest, loaders), first_loss(other, loaders))
    if method == "llmrec":
        assert not torch.equal(honest.hnlm.comparator.likes, other.hnlm.comparator.likes)


@pytest.mark.parametrize("method", ALL)
def test_a_copy_is_one_of_its_own_with_the_same_draws(folder: Path, method: str) -> None:
    model, loaders = made(folder, "LightGCN", method)
    twin = copy.deepcopy(model)
    batch = next(iter(loaders[0]))
    first, second = (each.calculate_loss(copy.copy(batch)) for each in (model, twin))
    assert torch.equal(first, second)
    theirs = dict(twin.named_parameters())
    assert all(theirs[key] is not parameter for key, parameter in model.named_parameters())


def test_rows_are_given_back_after_an_error(folder: Path) -> None:
    model, _ = made(folder, "BPR", "kar")
    weight = model.item_embedding.weight
    with pytest.raises(KeyError), read_instead([model.item_embedding], (torch.zeros(2, 8),)):
        assert model.item_embedding(torch.tensor([1])).abs().sum() == 0
        raise KeyError
    assert model.item_embedding.weight is weight and set(model.state_dict()) >= {"item_embedding.weight"}


@pytest.mark.parametrize(
    ("name", "method", "values", "message"),
    [
        ("BPR", "rlmrec_com", {}, "did you mean 'rlmrec_con'"),
        ("BPR", "kar", {"hnlm_alpha": 0.1}, "hnlm_alpha has no effect here: hnlm_comparator=kar"),
        ("BPR", "kar", {"hnlm_init": "text"}, "hnlm_init has no effect here"),
        ("BPR", "llmrec", {"hnlm_alignment_weight": 0.0}, "hnlm_alignment_weight has no effect here"),
        ("BPR", "kar", {"hnlm_control": "pairs_permuted"}, "hnlm_control has no effect here: a comparator reads no"),
        ("BPR", "kar", {"comparator_weight": 0.1}, "comparator_weight has no effect here: it belongs to"),
        ("BPR", "none", {"comparator_hidden_width": 9}, "it belongs to hnlm_comparator=kar"),
        ("BPR", "kar", {"comparator_hiden_width": 9}, "did you mean 'comparator_hidden_width'"),
        ("BPR", "rlmrec_con", {"comparator_weight": -1.0}, "comparator_weight=-1.0 should be at least 0"),
        (
            "BPR",
            "llmrec",
            {"comparator_text_weight": float("inf")},
            "comparator_text_weight=inf should be a finite number",
        ),
        ("BPR", "rlmrec_con", {"comparator_temperature": 0.0}, "comparator_temperature=0.0 must be above 0"),
        (
            "BPR",
            "rlmrec_con",
            {"comparator_temperature": float("inf")},
            "comparator_temperature=inf should be a finite number",
        ),
        ("BPR", "rlmrec_con", {"comparator_negatives": 1}, "comparator_negatives=1 leaves nothing"),
        ("LightGCN", "rlmrec_gen", {"comparator_mask_share": 1.0}, r"outside \(0, 1\)"),
        ("BPR", "kar", {"comparator_own_experts": -1}, "comparator_own_experts=-1 is negative"),
        ("BPR", "kar", {"comparator_own_experts": 0, "comparator_shared_experts": 0}, "nobody reads text"),
        ("BPR", "llmrec", {"comparator_top_items": 1}, "leaves no like and dislike"),
        *(
            (
                "BPR",
                "llmrec",
                {"comparator_weight": 0.0, f"comparator_{key}": value},
                f"comparator_{key} has no effect here: comparator_weight=0 leaves the extra triples out",
            )
            for key, value in {"user_share": 0.5, "drop_share": 0.1, "top_items": 5}.items()
        ),
        ("BPR", "llmrec", {"comparator_user_share": 0.0}, r"comparator_user_share=0.0 is outside \(0, 1\]"),
        ("BPR", "llmrec", {"comparator_drop_share": 1.0}, r"comparator_drop_share=1.0 is outside \[0, 1\)"),
        ("BPR", "rlmrec_gen", {}, "BPR does not propagate"),
        ("NeuMF", "kar", {}, "kar needs one user and one item embedding of one width"),
        ("DMF", "rlmrec_con", {}, "DMF reads items by id"),
        ("BPR", "kar", {"adam": "rows"}, "adam: rows needs rows that are looked up, kar makes all of them"),
    ],
)
def test_what_cannot_work_is_refused(
    folder: Path, name: str, method: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        made(folder, name, method, **values)


def test_negatives_are_uniform_as_published_and_ours_stays_out(folder: Path) -> None:
    model, _ = made(folder, "BPR", "rlmrec_con")
    options = model.hnlm.run.hnlm
    assert type(model.hnlm.sampler).__name__ == "UniformSampler"
    assert (options.alpha, options.aligns, options.init, options.reads_pair_vectors) == (0.0, False, "random", False)
    assert model.hnlm.text_head is None
    assert not any(key.startswith("comparator_") for key in PlainConfig(
        "BPR", "tiny", config_dict=settings(folder, "BPR", **values_of(folder, "kar", comparator_own_experts=1))
    ).external_config_dict)  # fmt: skip


def test_a_second_process_of_a_build_waits_for_the_reference(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[Path] = []
    _, loaders = made(folder, "BPR", "llmrec", comparator_top_items=3)
    values = settings(folder, "BPR", **values_of(folder, "llmrec", comparator_top_items=4))
    config, kept = HNLMConfig("BPR", "tiny", config_dict=values), set((folder / "cache").iterdir())
    with monkeypatch.context() as second:
        second.setattr(sharding, "is_first", lambda: False)
        second.setattr(sharding, "is_sharded", lambda: True)
        second.setattr(sharding, "wait_for_all", waited.append)
        ensure_reference(config, config.run, loaders[0])
    assert waited == [folder / "cache"] and set((folder / "cache").iterdir()) == kept
    ensure_reference(config, config.run, loaders[0])
    assert len(set((folder / "cache").iterdir()) - kept) == 1
