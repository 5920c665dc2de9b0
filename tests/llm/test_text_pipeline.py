"""The pipeline whole: from a small shop to the files, killed and resumed, and estimated beforehand."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.artefacts import ArtefactReader, AtomicTable, Provenance, hash_pairs, write_artefact
from recbole_hnlm.artefacts.grounded import read_grounded
from recbole_hnlm.artefacts.neg_text import iter_neg_text, read_neg_text_manifest
from recbole_hnlm.llm.chat import ChatRequest, Estimate
from recbole_hnlm.llm.corpus import Corpus
from recbole_hnlm.llm.dry_run import dry_run
from recbole_hnlm.llm.neighbours import write_text_neighbours
from recbole_hnlm.llm.profiles import History
from recbole_hnlm.llm.text_pipeline import TextRun, artefact_contents, run_text_pipeline
from recbole_hnlm.options.text import GroundingOptions, TextOptions
from tests.llm.conftest import DigestEncoder
from tests.llm.talking import ScriptedBackend, good_reply

USERS, ITEMS = 12, 30


@pytest.fixture
def run(tmp_path: Path, table: Callable[..., AtomicTable]) -> TextRun:
    rng = np.random.default_rng(8)
    keys = np.sort(rng.choice(USERS * ITEMS, 80, replace=False))
    items = [f"i{place:02}" for place in range(ITEMS)]
    titles = ["" if place == 4 else f"Thing {place}" for place in range(ITEMS)]
    shop = table(
        {"item_id:token": items, "title:token_seq": titles, "price:float": ["1"] * ITEMS, "brand:token": titles}
    )
    history = History(keys // ITEMS, keys % ITEMS, 3)
    corpus = Corpus([f"u{place:02}" for place in range(USERS)], items, history, shop, ("title", "brand"))
    return TextRun("toy", tmp_path / "out", tmp_path / "cache", corpus, text_width=8, negatives_per_pair=2)


@pytest.mark.parametrize("grouping", ["pair", "user", "cluster"])
def test_from_text_to_files(run: TextRun, digest_encoder: DigestEncoder, grouping: str) -> None:
    options = TextOptions(pair_grouping=grouping, pairs_per_request=3, pair_clusters=9)  # type: ignore[arg-type]
    run = dataclasses.replace(run, text=options)
    corpus = run.corpus
    backend = ScriptedBackend()
    result = run_text_pipeline(run, backend, digest_encoder)
    told = corpus.pair_items != 4
    assert ((result.texts.rows >= 0).all(axis=1) == told).all()
    calls = dry_run(run, backend).calls
    made = len(backend.asked_for("hard_negative"))
    assert made == calls[f"negatives_{grouping}"] or (grouping == "cluster" and made < 9)
    assert [len(backend.asked_for(f"{kind}_profile")) for kind in ("item", "user")] == [29, 12]

    users, items = (np.array(tokens)[ranks] for tokens, ranks in _named_pairs(corpus))
    digest = hash_pairs(users, items)
    manifest = read_neg_text_manifest(run.output_dir, "toy", pairs_hash=digest)
    assert manifest == result.manifest
    assert (manifest.pairs, manifest.pairs_with_text, manifest.pairs_grounded) == (80, told.sum(), told.sum())
    assert manifest.provenance["prompts"] == "products-1"
    owned: dict[str, set[str]] = {}
    for user, item in zip(users, items, strict=True):
        owned.setdefault(user, set()).add(item)
    rows = list(iter_neg_text(run.output_dir, "toy"))
    assert len(rows) == manifest.rows == 2 * told.sum()
    assert not any(negative in owned[user] or negative in ("", "i04") for user, _, _, negative, _ in rows)

    found = read_grounded(run.output_dir, "toy", ["", *corpus.users], ["", *corpus.items], pairs_hash=digest)
    assert len(found.users) == told.sum()
    write_artefact(run.output_dir, "toy", artefact_contents(run, result), Provenance("digest"))
    bound = ArtefactReader.open(run.output_dir, "toy", pairs_hash=digest).bind(["", *corpus.users], ["", *corpus.items])
    where = bound.pair_rows(corpus.pair_users + 1, corpus.pair_items + 1)
    assert ((where[:, 0] >= 0) == told).all()
    first = result.texts.rows[0]
    mean = result.vectors.names[first].sum(axis=0)
    np.testing.assert_allclose(bound.read(where[0])[0], mean / np.linalg.norm(mean), atol=1e-3)


def _named_pairs(corpus: Corpus) -> list[tuple[list[str], np.ndarray]]:
    return [(list(corpus.users), corpus.pair_users), (list(corpus.items), corpus.pair_items)]


def test_every_stage_ends_with_a_table(
    run: TextRun, digest_encoder: DigestEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        run_text_pipeline(run, ScriptedBackend(), digest_encoder)
    for stage in ("item profiles", "user profiles", "hard negatives", "grounding", "hard-negative vectors"):
        assert f"{stage}\n  " in caplog.text


def test_a_model_that_fails_throughout_leaves_templates(run: TextRun, digest_encoder: DigestEncoder) -> None:
    result = run_text_pipeline(run, ScriptedBackend(lambda _: None), digest_encoder)
    assert result.profiles.items == run.corpus.item_templates
    assert result.profiles.users == run.corpus.user_templates
    assert (result.texts.coverage, result.grounding.coverage, len(result.pooled.neg_ids)) == (0, 0, 0)
    assert [stage.failed for stage in result.stages] == [stage.requests for stage in result.stages]
    assert list(iter_neg_text(run.output_dir, "toy")) == []


def test_vectors_of_what_the_model_wrote(run: TextRun, digest_encoder: DigestEncoder) -> None:
    plain = run_text_pipeline(run, ScriptedBackend(), digest_encoder)
    written = dataclasses.replace(run, text=TextOptions(item_vectors="profiles"))
    result = run_text_pipeline(written, ScriptedBackend(), digest_encoder)
    assert result.profiles == plain.profiles
    assert not np.allclose(result.vectors.items, plain.vectors.items)


def test_neighbours_need_no_model(run: TextRun, digest_encoder: DigestEncoder) -> None:
    run = dataclasses.replace(run, grounding=GroundingOptions(ground_items=3, ground_min_similarity=-1.0))
    grounding, manifest = write_text_neighbours(run, digest_encoder)
    corpus = run.corpus
    vectors = run_text_pipeline(run, ScriptedBackend(), digest_encoder).vectors.items
    assert grounding.items.shape == (80, 1, 3)
    assert manifest.pairs_grounded == (corpus.pair_items != 4).sum()
    owned = {(user, item) for user, item in zip(corpus.pair_users.tolist(), corpus.pair_items.tolist(), strict=True)}
    for user, positive, found in zip(corpus.pair_users, corpus.pair_items, grounding.items[:, 0], strict=True):
        if positive == 4:
            assert (found == -1).all()
            continue
        free = [item for item in range(ITEMS) if item != 4 and (user, item) not in owned]
        expected = sorted(free, key=lambda item: -float(vectors[item] @ vectors[positive]))[:3]
        assert found.tolist() == expected


def test_dry_run(run: TextRun) -> None:
    class Priced(ScriptedBackend):
        def estimate(self, requests: Iterable[ChatRequest]) -> Estimate:
            asked = list(requests)
            tokens = sum(len(str(request.messages)) // 4 for request in asked)
            most = sum(request.max_tokens for request in asked)
            return Estimate(len(asked), 0, tokens, most, cost=tokens * 1e-6, seconds=len(asked) / 10)

    backend = Priced()
    for grouping in ("pair", "user", "cluster"):
        text = TextOptions(pair_grouping=grouping, pairs_per_request=3, pair_clusters=9)  # type: ignore[arg-type]
        told = dry_run(dataclasses.replace(run, text=text), backend)
        assert told.stages["hard negatives"].requests == told.calls[f"negatives_{grouping}"]
        assert told.stages["item profiles"].requests == told.calls["item_profiles"] == 29
        assert told.cost == pytest.approx(sum(stage.cost or 0 for stage in told.stages.values()))
        assert f"{grouping} {told.calls[f'negatives_{grouping}']:,} (chosen)" in told.table()
    assert backend.asked == []
    unpriced = dry_run(run, ScriptedBackend())
    assert unpriced.cost is None and "?" in unpriced.table()


def test_stand_ins_are_no_shorter_than_what_is_written(run: TextRun, digest_encoder: DigestEncoder) -> None:
    """The dry run's prompts are the most that the real ones can be."""
    lengths: dict[str, int] = {}

    class Measuring(ScriptedBackend):
        def estimate(self, requests: Iterable[ChatRequest]) -> Estimate:
            lengths.update({request.key: len(str(request.messages).split()) for request in requests})
            return Estimate(0, 0, 0, 0)

    def long_reply(request: ChatRequest) -> str:
        value = json.loads(good_reply(request))
        return json.dumps({key: "word " * 500 if isinstance(text, str) else text for key, text in value.items()})

    backend = Measuring(long_reply)
    run_text_pipeline(run, backend, digest_encoder)
    dry_run(run, backend)
    assert {request.key for request in backend.asked} == set(lengths)
    assert all(len(str(request.messages).split()) <= lengths[request.key] for request in backend.asked)


def test_a_dry_run_counts_users_whose_items_have_no_name(
    tmp_path: Path, table: Callable[..., AtomicTable], digest_encoder: DigestEncoder
) -> None:
    """An item without a title still gets a profile of its brand, and so does the user who has no other item."""
    shop = table({"item_id:token": ["a", "b"], "title:token_seq": ["", "Thing"], "brand:token": ["Acme", "Acme"]})
    corpus = Corpus(["u", "v"], ["a", "b"], History(np.array([0, 1]), np.array([0, 1])), shop, ("title", "brand"))
    run = TextRun("toy", tmp_path / "out", tmp_path / "cache", corpus)
    backend = ScriptedBackend()
    told = dry_run(run, backend).stages
    run_text_pipeline(run, backend, digest_encoder)
    assert len(backend.asked) == sum(stage.requests for stage in told.values()) == 5


SCRIPT = """
    import sys
    from pathlib import Path
    import numpy as np, pandas as pd
    from recbole_hnlm.artefacts import AtomicTable
    from recbole_hnlm.llm.corpus import Corpus
    from recbole_hnlm.llm.profiles import History
    from recbole_hnlm.llm.text_pipeline import TextRun, run_text_pipeline
    from tests.llm.conftest import DigestEncoder
    from tests.llm.talking import KeptBackend

    home, after = Path(sys.argv[1]), int(sys.argv[2])
    items = [f"i{place:02}" for place in range(20)]
    frame = pd.DataFrame({"item_id": items, "title": [f"Thing {item}" for item in items]})
    table = AtomicTable({"item_id": "token", "title": "token_seq"}, frame, "item_id")
    pairs = np.arange(26)
    corpus = Corpus(["u", "v"], items, History(pairs % 2, pairs % 13), table, ("title",))
    backend = KeptBackend(home / "kept", die_after=None if after < 0 else after)
    run = TextRun("toy", home / "out", home / "cache", corpus, negatives_per_pair=2)
    result = run_text_pipeline(run, backend, DigestEncoder())
    sys.stdout.write(f"{len(backend.asked)} {sum(stage.cached for stage in result.stages)}")
"""


def test_kill_at_three_points_and_the_same_bytes(tmp_path: Path) -> None:
    """Within item profiles, within user profiles, within hard negatives; then the run goes on where it stood."""
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}

    def start(home: str, after: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", textwrap.dedent(SCRIPT), str(tmp_path / home), str(after)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100)

    whole = start("whole", -1)
    assert whole.returncode == 0, whole.stderr
    asked = int(whole.stdout.split()[0])
    assert asked == 20 + 2 + 26  # items, users, pairs
    for after in (7, 14, 23):  # after 7, then 7 + 14 = 21, then 44 replies
        killed = start("killed", after)
        assert killed.returncode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "out" / "toy.neg_text.json").exists()
    last = start("killed", -1)
    assert last.returncode == 0, last.stderr
    assert [int(word) for word in last.stdout.split()] == [asked - 44, 44]
    for name in ("toy.neg_text", "toy.neg_text.json"):
        assert (tmp_path / "killed" / "out" / name).read_bytes() == (tmp_path / "whole" / "out" / name).read_bytes()
