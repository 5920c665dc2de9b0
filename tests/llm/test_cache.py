"""No text is encoded twice."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.llm import TextEncoder
from recbole_hnlm.llm.cache import VectorCache, encode_cached
from recbole_hnlm.llm.text_vectors import centre_and_normalise

TEXTS = [f"text number {place}" for place in range(50)]


def test_vectors_come_back_in_order_and_only_new_texts_are_encoded(tmp_path: Path, digest_encoder) -> None:  # type: ignore[no-untyped-def]
    first, encoded = encode_cached(TEXTS[:30], digest_encoder, VectorCache(tmp_path, digest_encoder), batch_size=1)
    assert encoded == 30
    assert [len(call) for call in digest_encoder.calls] == [8, 8, 8, 6]
    given = [TEXTS[40], *TEXTS[:30][::-1], TEXTS[40]]
    digest_encoder.calls.clear()
    second, encoded = encode_cached(given, digest_encoder, VectorCache(tmp_path, digest_encoder))
    assert encoded == 1
    assert digest_encoder.calls == [[TEXTS[40]]]
    np.testing.assert_array_equal(second[1:31][::-1], first)
    np.testing.assert_array_equal(second, digest_encoder.encode(given))


def test_empty_texts_are_zero_and_not_encoded(tmp_path: Path, digest_encoder: TextEncoder) -> None:
    vectors, encoded = encode_cached(["", "a", "", "b"], digest_encoder, VectorCache(tmp_path, digest_encoder))
    alone, _ = encode_cached(["a", "b"], digest_encoder, VectorCache(tmp_path, digest_encoder))
    assert encoded == 2 and not vectors[[0, 2]].any() and np.array_equal(vectors[[1, 3]], alone)


def test_longest_texts_go_first(tmp_path: Path, digest_encoder) -> None:  # type: ignore[no-untyped-def]
    encode_cached(["b", "ccc", "aa", "a"], digest_encoder, VectorCache(tmp_path, digest_encoder))
    assert digest_encoder.calls == [["ccc", "aa", "a", "b"]]


def test_what_was_encoded_before_a_failure_is_kept(tmp_path: Path, digest_encoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    encode = digest_encoder.encode

    def failing(texts: list[str]) -> np.ndarray:
        if len(digest_encoder.calls) == 2:
            raise MemoryError
        return encode(texts)

    monkeypatch.setattr(digest_encoder, "encode", failing)
    with pytest.raises(MemoryError):
        encode_cached(TEXTS, digest_encoder, VectorCache(tmp_path, digest_encoder), batch_size=2)
    assert len(VectorCache(tmp_path, digest_encoder)) == 2 * 16


def test_another_encoder_shares_nothing(tmp_path: Path, digest_encoder) -> None:  # type: ignore[no-untyped-def]
    VectorCache(tmp_path, digest_encoder).store(["a"], digest_encoder.encode(["a"]))
    assert "a" in VectorCache(tmp_path, digest_encoder)
    digest_encoder.revision = "2"
    assert "a" not in VectorCache(tmp_path, digest_encoder)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "nan"])
def test_damaged_shards_are_encoded_anew(  # type: ignore[no-untyped-def]
    tmp_path: Path, digest_encoder, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = VectorCache(tmp_path, digest_encoder)
    expected, _ = encode_cached(TEXTS, digest_encoder, cache, batch_size=2)
    shard = sorted(cache.directory.glob("*.npy"))[1]
    size = len(np.load(shard))
    data = shard.read_bytes()
    nan = np.full(4, np.nan, dtype="<f4").tobytes()
    changed = {"truncated": data[:-5], "garbage": b"x" * 99, "nan": data[:-16] + nan}
    shard.write_bytes(changed[damage])
    with caplog.at_level(logging.WARNING):
        again, encoded = encode_cached(TEXTS, digest_encoder, VectorCache(tmp_path, digest_encoder))
    assert encoded == size
    assert str(shard) in caplog.text
    np.testing.assert_array_equal(again, expected)


def test_a_shard_that_cannot_be_opened_just_now_stays(tmp_path: Path, digest_encoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    cache = VectorCache(tmp_path, digest_encoder)
    encode_cached(TEXTS, digest_encoder, cache, batch_size=2)
    shards = sorted(cache.directory.glob("*.npy"))

    def busy(*args: object, **kwargs: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched, pytest.raises(OSError, match="Too many open files"):
        patched.setattr(np, "load", busy)
        VectorCache(tmp_path, digest_encoder)
    assert sorted(cache.directory.glob("*.npy")) == shards
    shards[0].write_bytes(b"")
    assert len(VectorCache(tmp_path, digest_encoder)) < len(cache)


def test_a_temporary_file_that_another_build_has_just_renamed_is_no_error(
    tmp_path: Path, digest_encoder, monkeypatch
) -> None:  # type: ignore[no-untyped-def]
    cache = VectorCache(tmp_path, digest_encoder)
    usual = Path.glob
    gone = cache.directory / ".shard.npy.hnlm-tmp"
    monkeypatch.setattr(Path, "glob", lambda self, what: [gone] if what.endswith("-tmp") else usual(self, what))
    assert len(VectorCache(tmp_path, digest_encoder)) == 0


def test_real_encoder_through_the_cache(tmp_path: Path, minilm: TextEncoder) -> None:
    texts = ["red stapler", "blue stapler", "red stapler"]
    vectors, encoded = encode_cached(texts, minilm, VectorCache(tmp_path, minilm))
    assert encoded == 2
    np.testing.assert_array_equal(vectors[0], vectors[2])
    assert 0.5 < vectors[0] @ vectors[1] < 0.999
    again, encoded = encode_cached(texts, minilm, VectorCache(tmp_path, minilm))
    assert encoded == 0
    np.testing.assert_array_equal(again, vectors)


def test_an_encoder_that_gives_nan_is_stopped(tmp_path: Path, digest_encoder, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(digest_encoder, "encode", lambda texts: np.full((len(texts), 16), np.nan, np.float32))
    cache = VectorCache(tmp_path, digest_encoder)
    with pytest.raises(ValueError, match="check its precision"):
        encode_cached(["a"], digest_encoder, cache)
    assert len(cache) == 0


def test_centring_known_answer() -> None:
    vectors = np.array([[3, 0], [1, 0], [99, 99], [2, 3]], dtype=np.float32)
    mask = np.array([True, True, False, True])
    result = centre_and_normalise(vectors, mask)  # mean (2, 1)
    root = 1 / np.sqrt(2)
    np.testing.assert_allclose(result, [[root, -root], [-root, -root], [0, 0], [0, 1]], atol=1e-7)


@pytest.mark.parametrize("rows", [0, 1, 10_000])
def test_centring_against_plain_numpy(rows: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((rows, 5)).astype(np.float32) + 3
    result = centre_and_normalise(vectors, np.ones(rows, bool))
    if rows < 2:
        assert not result.any()  # a single text has no direction
        return
    expected = vectors.astype(np.float64) - vectors.astype(np.float64).mean(axis=0)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(result, expected, atol=1e-6)


def test_centring_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        centre_and_normalise(np.zeros((2, 2), np.float32), np.ones(3, bool))
    with pytest.raises(ValueError, match="NaN"):
        centre_and_normalise(np.full((2, 2), np.nan, np.float32), np.ones(2, bool))
