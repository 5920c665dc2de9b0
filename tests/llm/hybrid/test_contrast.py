"""The loss of Eq. 12 against a double loop, and which texts are whose negatives."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_hnlm.llm.hybrid import BaseSettings, PairTexts, read_template
from recbole_hnlm.llm.hybrid.contrast import contrastive_batch, info_nce, length_batches
from recbole_hnlm.llm.hybrid.encoder import SoftTokenProjector, encode
from recbole_hnlm.llm.hybrid.evaluation import HeldOutPairs
from recbole_hnlm.llm.hybrid.loading import load_base
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder


@pytest.mark.parametrize("dtype", (torch.float64, torch.float32))
def test_info_nce_is_the_double_loop(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(1)
    queries = torch.nn.functional.normalize(torch.randn(5, 7, generator=generator, dtype=torch.float64), dim=1)
    items = torch.nn.functional.normalize(torch.randn(9, 7, generator=generator, dtype=torch.float64), dim=1)
    targets = torch.tensor([3, 3, 0, 8, 5])
    allowed = torch.rand(5, 9, generator=generator) < 0.6
    allowed[torch.arange(5), targets] = True
    total = 0.0
    for row in range(5):
        terms = [math.exp(float(queries[row] @ items[m]) / 0.05) for m in range(9) if allowed[row, m]]
        total -= math.log(math.exp(float(queries[row] @ items[targets[row]]) / 0.05) / sum(terms))
    found = info_nce(queries.to(dtype), items.to(dtype), targets, allowed, 0.05)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(total / 5, rel=1e-12 if dtype == torch.float64 else 1e-4)


@pytest.fixture
def builder(tiny: dict[str, Path], pairs: PairTexts) -> PromptBuilder:
    """Pairs in which two items share a text and one has none."""
    texts = list(pairs.item_profiles)
    texts[5], texts[6] = texts[4], ""
    base = load_base(BaseSettings(base=str(tiny["Llama"]), prompt_tokens=48, label_tokens=16, precision="float32"))
    return PromptBuilder(replace(pairs, item_profiles=texts), read_template(), base.tokens, base.lengths)


def test_negatives_are_own_item_other_labels_and_extras_but_no_positives(builder: PromptBuilder) -> None:
    pairs = builder.pairs
    places = np.random.default_rng(3).choice(pairs.trainable, 24, replace=False)
    extra = np.arange(0, 48, 3)
    batch = contrastive_batch(builder, places, extra)
    texts = pairs.item_profiles
    shown = [texts[item] for item in pairs.hard_item_of_pair[places]]
    own = [texts[item] for item in pairs.item_of_pair[places]]
    columns = sorted({*shown, *own, *(texts[item] for item in extra)} - {""}, key=list(texts).index)
    assert batch.allowed.shape == (24, len(columns))
    spared = 0
    for row, place in enumerate(places):
        label = texts[pairs.hard_item_of_pair[place]]
        positives = {texts[item] for item in pairs.item_of_pair[pairs.user_of_pair == pairs.user_of_pair[place]]}
        wanted = {label, own[row]} | (({*shown} | {texts[item] for item in extra}) - positives)
        spared += len(positives & {*shown})
        found = {columns[m] for m in range(len(columns)) if batch.allowed[row, m]}
        assert found == wanted - {""}
        assert columns[int(batch.targets[row])] == label
    assert spared > 0


def test_pairs_without_a_label_of_their_own_are_left_out(pairs: PairTexts) -> None:
    hard, texts = pairs.hard_item_of_pair.copy(), list(pairs.item_profiles)
    hard[0] = -1
    hard[1] = pairs.item_of_pair[1]
    texts[hard[30]] = ""
    found = replace(pairs, hard_item_of_pair=hard, item_profiles=texts).trainable
    assert not {0, 1, 30} & set(found.tolist())
    assert 2 in found


def test_batches_by_length_keep_the_budget_and_lose_nothing() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 500).tolist()
    batches = list(length_batches(lengths, 200))
    assert sorted(place for batch in batches for place in batch) == list(range(500))
    assert all(len(batch) * max(lengths[place] for place in batch) <= 200 for batch in batches)
    assert [len(batch) for batch in length_batches([300, 5, 5], 200)] == [1, 2]
    assert list(length_batches([], 200)) == []


def test_retrieval_is_the_share_of_labels_that_are_nearest(builder: PromptBuilder, llama: BaseSettings) -> None:
    """Against a loop over pairs: prompt, own label, the labels drawn beside it, own item."""
    pairs, places = builder.pairs, builder.pairs.trainable[:40]
    model = load_base(llama).model
    projector = SoftTokenProjector(pairs.width, 8, model.width)
    projector.start(pairs, model.words)
    model.add_projector(pairs.name, projector)
    held = HeldOutPairs(builder, places, np.random.default_rng(0))
    found = held.measure(model.train(), 0.05)
    assert model.training  # as it was
    model.eval()
    nearest, total = 0, 0.0
    for row, place in enumerate(places):
        query = encode(model, builder.prompts(places[row : row + 1]))[0].astype(np.float64)
        others = held._items[held._others[row]]
        assert len({pairs.item_profiles[item] for item in others}) == found.choices - 1
        assert pairs.item_profiles[pairs.hard_item_of_pair[place]] not in {pairs.item_profiles[i] for i in others}
        own = [pairs.item_of_pair[place]] if pairs.item_profiles[pairs.item_of_pair[place]] else []
        texts = np.array([pairs.hard_item_of_pair[place], *others, *own])
        cosines = encode(model, builder.items(texts)).astype(np.float64) @ query
        nearest += int(cosines[0] > cosines[1 : found.choices].max())
        total += float(np.log(np.exp(cosines / 0.05).sum()) - cosines[0] / 0.05)
    assert found.pairs == 40
    assert found.accuracy == nearest / 40
    assert found.loss == pytest.approx(total / 40, rel=1e-4)
