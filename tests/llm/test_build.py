"""A whole build: known answers, real text, no text, and kill -9 at every stage."""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.artefacts import ArtefactReader, AtomicTable, describe, hash_pairs
from recbole_hnlm.llm import BuildRequest, TextEncoder, build_artefacts, read_atomic, select_text_fields
from recbole_hnlm.llm.profiles import item_profiles
from recbole_hnlm.llm.text_vectors import centre_and_normalise
from recbole_hnlm.options import LLMOptions

USERS = ["u1", "u2", "u1", "u2", "u1"]
ITEMS = ["a", "b", "c c", "d", "a"]  # the last pair repeats the first
NEGATIVES = np.array([["b", "d"], ["d", ""], ["d", "a"], ["c c", "b"], ["c c", "c c"]], dtype=object)
CATALOGUE = ["d", "c c", "b", "a", "e"]


@pytest.fixture
def request_(tmp_path: Path, table: Callable[..., AtomicTable]) -> BuildRequest:
    items = table({"item_id:token": ["a", "b", "c c", "d"], "title:token_seq": ["Ay", "Bee", "Sea", ""]})
    return BuildRequest(
        "toy",
        tmp_path / "out",
        tmp_path / "cache",
        USERS,
        ITEMS,
        CATALOGUE,
        NEGATIVES,
        item_table=items,
        teacher={"model": "BPR"},
        options=LLMOptions(negatives_per_pair=2),
    )


def test_known_answer(request_: BuildRequest, digest_encoder) -> None:  # type: ignore[no-untyped-def]
    report = build_artefacts(request_, digest_encoder)
    manifest = report.manifest
    assert (manifest.pairs, manifest.covered_pairs, report.duplicates) == (4, 3, 1)
    assert (report.without_text, report.items_without_text) == (1, 2)
    assert (report.texts_encoded, report.texts_cached) == (3, 0)
    assert manifest.provenance.item_fields == ("title",)
    assert manifest.pairs_hash == hash_pairs(USERS, ITEMS)
    users, items = ["[PAD]", "u1", "u2"], ["[PAD]", *CATALOGUE]
    bound = ArtefactReader.open(request_.output_dir, "toy", pairs_hash=hash_pairs(USERS, ITEMS)).bind(users, items)
    raw = digest_encoder.encode(["Sea", "Bee", "Ay"])
    expected = centre_and_normalise(raw, np.ones(3, bool)).astype(np.float16)
    vector = dict(zip(["c c", "b", "a"], expected, strict=True))
    wanted = {("u1", "a"): ["b"], ("u1", "c c"): ["a"], ("u2", "d"): ["c c", "b"], ("u2", "b"): []}
    for (user, item), negatives in wanted.items():
        rows = bound.pair_rows(np.array([users.index(user)]), np.array([items.index(item)]))[0]
        read = bound.read(rows[rows >= 0])
        assert len(read) == len(negatives)
        for got, negative in zip(read, negatives, strict=True):
            np.testing.assert_array_equal(got, vector[negative])
    vectors, mask = bound.item_text()
    assert mask.tolist() == [False, False, True, True, True, False]
    np.testing.assert_array_equal(vectors[2], vector["c c"].astype(np.float32))
    assert "negative c c: Sea" in describe(request_.output_dir, "toy")
    assert "coverage" in report.table()


def test_a_repeated_pair_keeps_the_training_order_and_its_neighbours_negatives(  # type: ignore[no-untyped-def]
    request_: BuildRequest, digest_encoder
) -> None:
    repeated = dataclasses.replace(
        request_,
        user_tokens=["u1", "u1", "u1"],
        item_tokens=["b", "b", "a"],
        hard_negatives=np.array(["a", "c c", "b"]),
    )
    assert build_artefacts(repeated, digest_encoder).duplicates == 1
    out = Path(request_.output_dir)
    assert (out / "toy.hnlm").read_text().splitlines()[1:] == ["u1\ta\tb", "u1\tb\ta"]
    assert (out / "toy.user_profile").read_text().splitlines()[1:] == ["u1\tChose: Ay; Bee"]


def test_second_build_encodes_nothing_and_changes_no_byte(request_: BuildRequest, digest_encoder) -> None:  # type: ignore[no-untyped-def]
    build_artefacts(request_, digest_encoder)
    before = {path.name: path.read_bytes() for path in Path(request_.output_dir).iterdir()}
    report = build_artefacts(request_, digest_encoder)
    assert (report.texts_encoded, report.texts_cached) == (0, 3)
    assert {path.name: path.read_bytes() for path in Path(request_.output_dir).iterdir()} == before


def test_dataset_without_text_takes_the_teachers_vectors(
    request_: BuildRequest, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    bare = dataclasses.replace(request_, item_table=None, fallback_vectors=vectors)
    with caplog.at_level(logging.WARNING):
        report = build_artefacts(bare)
    assert "no text; the teacher's item embeddings" in caplog.text
    assert report.manifest.provenance.encoder == "teacher"
    assert (report.manifest.coverage, report.manifest.width) == (1.0, 7)
    read, mask = (
        ArtefactReader.open(bare.output_dir, "toy").bind(["[PAD]", "u1", "u2"], ["[PAD]", *CATALOGUE]).item_text()
    )
    assert mask[1:].all()
    expected = centre_and_normalise(vectors, np.ones(5, bool)).astype(np.float16)
    np.testing.assert_array_equal(read[1:], expected.astype(np.float32))
    with pytest.raises(ValueError, match="has no text and no fallback_vectors"):
        build_artefacts(dataclasses.replace(bare, fallback_vectors=None))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"item_tokens": ["a", "b", "c c", "d", "zz"]}, "training item 'zz' is not in the catalogue"),
        ({"hard_negatives": np.array(["a", "b", "zz", "d", "a"])}, "hard negative 'zz'"),
        ({"options": LLMOptions(text_fields=("titel",))}, "did you mean 'title'"),
        ({"options": LLMOptions(user_text_fields=("age",))}, "need a .user file"),
    ],
)
def test_requests_that_cannot_be_met(request_: BuildRequest, digest_encoder, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        build_artefacts(dataclasses.replace(request_, **change), digest_encoder)
    assert digest_encoder.calls == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"user_tokens": ["u1"]}, "1 users, 5 items and 5 rows"),
        ({"user_tokens": [], "item_tokens": [], "hard_negatives": np.zeros((0, 1))}, "at least one"),
        ({"fallback_vectors": np.zeros((2, 3), np.float32)}, "2 rows for a catalogue of 5"),
    ],
)
def test_requests_whose_parts_do_not_line_up(request_: BuildRequest, change, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(request_, **change)


def test_real_texts_of_ml_100k(tmp_path: Path, minilm: TextEncoder, ml_100k: Path) -> None:
    items = read_atomic(ml_100k.with_suffix(".item"))
    items = dataclasses.replace(items, frame=items.frame.head(60))
    tokens = items.column("item_id")
    negatives = np.array(tokens[1:] + tokens[:1])
    users = ["1", "2", "3"] * 20
    request = BuildRequest(
        "ml", tmp_path, tmp_path / "cache", users, tokens, tokens, negatives,
        item_table=items, user_table=read_atomic(ml_100k.with_suffix(".user")),
    )  # fmt: skip
    report = build_artefacts(request, minilm)
    assert report.manifest.coverage == 1.0
    assert report.manifest.provenance.encoder == "all-MiniLM-L6-v2"
    vectors, mask = ArtefactReader.open(tmp_path, "ml").bind(["[PAD]", "1", "2", "3"], ["[PAD]", *tokens]).item_text()
    assert mask[1:].all()
    np.testing.assert_allclose(np.linalg.norm(vectors[1:], axis=1), 1, atol=2e-3)
    # Children's comedies resemble each other more than a thriller.
    toy_story, babe, seven = (vectors[tokens.index(item) + 1] for item in ("1", "8", "11"))
    assert toy_story @ babe > toy_story @ seven + 0.1
    text = describe(tmp_path, "ml", samples=1)
    assert "user 1: age: 24; gender: M; occupation: technician. Chose: " in text


# The child builds a dataset of 120 texts (15 shards) and kills itself just before its n-th commit to disk.
CHILD = textwrap.dedent(
    """
    import os, signal, sys, hashlib
    import numpy as np, pandas as pd
    from recbole_hnlm.artefacts import AtomicTable
    from recbole_hnlm.llm.build import build_artefacts
    from recbole_hnlm.llm.request import BuildRequest
    from recbole_hnlm.options import LLMOptions

    class Encoder:
        name, revision, width, pooling, backend, precision = "digest", "1", 16, "none", "sha256", "float32"
        def encode(self, texts):
            data = b"".join(hashlib.sha256(text.encode()).digest() for text in texts)
            return np.frombuffer(data, dtype="<u2").reshape(-1, 16).astype(np.float32) / len(texts)

    out, deadly = sys.argv[1], int(sys.argv[2])
    commits, replace = 0, os.replace
    def counted(source, target):
        global commits
        commits += 1
        if commits == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(source, target)
    os.replace = counted
    tokens = [f"i{place}" for place in range(130)]
    titles = [f"title {place}" if place % 13 else "" for place in range(130)]
    frame = pd.DataFrame({"item_id": tokens, "title": titles}, dtype=str)
    table = AtomicTable({"item_id": "token", "title": "token_seq"}, frame, "item_id")
    rng = np.random.default_rng(0)
    users = [f"u{place}" for place in rng.integers(0, 20, 400)]
    items = [tokens[place] for place in rng.integers(0, 130, 400)]
    negatives = np.array(tokens)[rng.integers(0, 130, (400, 2))]
    report = build_artefacts(
        BuildRequest("toy", out + "/out", out + "/cache", users, items, tokens, negatives,
                     item_table=table, options=LLMOptions(encoder_batch_size=1)), Encoder())
    sys.stdout.write(f"{report.texts_encoded} {commits}")
    """
)


def run_child(out: Path, deadly: int = 0) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", CHILD, str(out), str(deadly)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


def files(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in (out / "out").iterdir()}


def test_build_killed_anywhere_resumes_and_ends_with_the_same_bytes(tmp_path: Path) -> None:
    undisturbed = run_child(tmp_path / "calm")
    assert undisturbed.returncode == 0, undisturbed.stderr
    encoded, commits = map(int, undisturbed.stdout.split())
    assert (encoded, commits) == (120, 15 + 9 + 1)  # shards, files, manifest
    expected = files(tmp_path / "calm")
    # First shard, a later shard, the first file, the middle of the files, the manifest.
    for deadly in (1, 8, 16, 20, 25):
        out = tmp_path / str(deadly)
        killed = run_child(out, deadly)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        with pytest.raises(FileNotFoundError):
            ArtefactReader.open(out / "out", "toy")
        resumed = run_child(out)
        assert resumed.returncode == 0, resumed.stderr
        saved_shards = min(deadly - 1, 15)
        assert int(resumed.stdout.split()[0]) == 120 - 8 * saved_shards
        assert files(out) == expected
        assert ArtefactReader.open(out / "out", "toy")


def test_rebuild_killed_midway_is_not_taken_for_whole(tmp_path: Path) -> None:
    assert run_child(tmp_path).returncode == 0
    expected = files(tmp_path)
    assert run_child(tmp_path, deadly=5).returncode == -signal.SIGKILL  # every text is in the cache
    with pytest.raises(FileNotFoundError, match="toy.hnlm.json does not exist"):
        ArtefactReader.open(tmp_path / "out", "toy")
    assert run_child(tmp_path).returncode == 0
    assert files(tmp_path) == expected


REAL_CHILD = textwrap.dedent(
    """
    import sys
    from recbole_hnlm.llm.build import build_artefacts
    from recbole_hnlm.llm.request import BuildRequest
    from recbole_hnlm.artefacts import read_atomic
    from recbole_hnlm.options import LLMOptions
    items = read_atomic(sys.argv[1] + ".item")
    tokens = items.column("item_id")[:240]
    request = BuildRequest("ml", sys.argv[2] + "/out", sys.argv[2] + "/cache", ["u"] * 240, tokens, tokens, tokens,
                           item_table=items, options=LLMOptions(encoder_batch_size=4))
    report = build_artefacts(request)
    sys.stdout.write(str(report.texts_encoded))
    """
)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As many threads as the child has: sums over more of them end in other bits."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_real_encoding_killed_midway_ends_with_the_same_bytes(
    tmp_path: Path, minilm: TextEncoder, ml_100k: Path, one_thread: None
) -> None:
    command = [sys.executable, "-c", REAL_CHILD, str(ml_100k), str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shards: list[Path] = []
    deadline = time.monotonic() + 60
    while len(shards) < 2 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
        shards = list((tmp_path / "killed" / "cache").glob("*/*.npy"))
    child.kill()
    assert child.wait() == -signal.SIGKILL, "the build ended before it could be killed"
    shards = list((tmp_path / "killed" / "cache").glob("*/*.npy"))
    assert 2 <= len(shards) < 8
    items = read_atomic(ml_100k.with_suffix(".item"))
    tokens = items.column("item_id")[:240]
    texts = item_profiles(items, select_text_fields(items), tokens, 200)
    reports = {}
    for place in ("killed", "calm"):
        out = tmp_path / place
        request = BuildRequest(
            "ml", out / "out", out / "cache", ["u"] * 240, tokens, tokens, tokens,
            item_table=items, options=LLMOptions(encoder_batch_size=4),
        )  # fmt: skip
        reports[place] = build_artefacts(request)
    assert reports["calm"].texts_encoded == len({text for text in texts if text})
    assert reports["killed"].texts_encoded == reports["calm"].texts_encoded - 32 * len(shards)
    assert files(tmp_path / "killed") == files(tmp_path / "calm")
