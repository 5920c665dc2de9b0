"""Text vectors reduced to their principal components."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from recbole_hnlm.artefacts import ArtefactReader, AtomicTable
from recbole_hnlm.llm import BuildRequest, build_artefacts
from recbole_hnlm.llm.text_vectors import centre_and_normalise
from recbole_hnlm.options import LLMOptions


@pytest.fixture
def vectors() -> np.ndarray:
    rng = np.random.default_rng(1)
    return (rng.standard_normal((9000, 12)) * np.linspace(3, 0.3, 12) + 5).astype(np.float32)


def test_against_scikit_learn(vectors: np.ndarray) -> None:
    mask = np.arange(len(vectors)) % 3 > 0
    reduced = centre_and_normalise(vectors, mask, width=4)
    assert reduced.shape == (9000, 4) and reduced.dtype == np.float32
    assert not reduced[~mask].any()
    theirs = PCA(4, svd_solver="full").fit(vectors[mask].astype(np.float64))
    projected = theirs.transform(vectors[mask].astype(np.float64))
    projected /= np.linalg.norm(projected, axis=1, keepdims=True)
    signs = np.sign((projected * reduced[mask]).sum(axis=0))
    np.testing.assert_allclose(reduced[mask], projected * signs, atol=1e-5)


def test_signs_do_not_hang_on_the_order_of_rows(vectors: np.ndarray) -> None:
    mask = np.ones(len(vectors), bool)
    turned = np.random.default_rng(0).permutation(len(vectors))
    reduced = centre_and_normalise(vectors, mask, width=5)
    np.testing.assert_allclose(centre_and_normalise(vectors[turned], mask, width=5), reduced[turned], atol=1e-5)


def test_fewer_texts_than_components() -> None:
    vectors = np.array([[3, 0, 0, 1], [1, 0, 0, 1], [2, 3, 0, 1]], dtype=np.float32)  # they span a plane
    reduced = centre_and_normalise(vectors, np.ones(3, bool), width=4)
    np.testing.assert_allclose(np.linalg.norm(reduced, axis=1), 1, atol=1e-6)
    assert not reduced[:, 2:].any()
    same = centre_and_normalise(np.ones((3, 4), np.float32), np.ones(3, bool), width=2)
    assert same.shape == (3, 2) and not same.any()


def test_no_width_or_more_than_there_is_keeps_the_vectors_own(vectors: np.ndarray) -> None:
    mask = np.ones(len(vectors), bool)
    whole = centre_and_normalise(vectors, mask)
    for width in (0, 12, 13):
        assert np.array_equal(centre_and_normalise(vectors, mask, width), whole)
    with pytest.raises(ValueError, match="llm_text_width=-1 is negative; 0 keeps"):
        LLMOptions(text_width=-1)


def test_a_build_of_another_width_encodes_nothing_and_is_recorded(tmp_path: Path, table, digest_encoder) -> None:  # type: ignore[no-untyped-def]
    tokens = [f"i{place}" for place in range(40)]
    items: AtomicTable = table({"item_id:token": tokens, "title:token_seq": [f"title {token}" for token in tokens]})
    negatives = np.array(tokens[1:] + tokens[:1])
    request = BuildRequest("toy", tmp_path / "full", tmp_path / "c", ["u"] * 40, tokens, tokens, negatives, items)
    assert build_artefacts(request, digest_encoder).manifest.width == 16
    narrow = dataclasses.replace(request, output_dir=tmp_path / "narrow", options=LLMOptions(text_width=5))
    report = build_artefacts(narrow, digest_encoder)
    assert (report.texts_encoded, report.texts_cached, report.manifest.width) == (0, 40, 5)
    settings = ArtefactReader.open(tmp_path / "narrow", "toy").manifest.provenance.settings
    assert (settings["text_width"], settings["encoder_backend"], settings["encoder_precision"]) == (
        5,
        "sha256",
        "float32",
    )
    raw = np.stack([digest_encoder.encode([f"title {token}"])[0] for token in tokens])
    expected = centre_and_normalise(raw, np.ones(40, bool), width=5).astype(np.float16)
    bound = ArtefactReader.open(tmp_path / "narrow", "toy").bind(["[PAD]", "u"], ["[PAD]", *tokens])
    np.testing.assert_allclose(bound.item_text()[0][1:], expected, atol=2e-3)
    rows = bound.pair_rows(np.array([1]), np.array([1]))[0]
    np.testing.assert_allclose(bound.read(rows)[0], expected[1], atol=2e-3)


def test_the_teachers_vectors_keep_their_width(tmp_path: Path) -> None:
    tokens, embeddings = ["a", "b", "c"], np.eye(3, 7, dtype=np.float32)
    request = BuildRequest(
        "toy", tmp_path / "o", tmp_path / "c", ["u"] * 3, tokens, tokens, np.array(tokens[::-1]),
        fallback_vectors=embeddings, options=LLMOptions(text_width=2),
    )  # fmt: skip
    manifest = build_artefacts(request).manifest
    assert manifest.width == 7 and "text_width" not in manifest.provenance.settings
