"""Text and matrices are made from each other without losing a bit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from recbole_hnlm.artefacts import (
    ArtefactContents,
    ArtefactError,
    ArtefactReader,
    Provenance,
    export_text,
    import_text,
    read_manifest,
    write_artefact,
)


def snapshot(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


@pytest.fixture
def wide(contents: ArtefactContents) -> ArtefactContents:
    rng = np.random.default_rng(1)
    item_vectors = rng.standard_normal((4, 40)).astype(np.float32)
    item_vectors[2] = 0
    return dataclasses.replace(
        contents, neg_vectors=rng.standard_normal((3, 40)).astype(np.float32), item_vectors=item_vectors
    )


def test_equal_contents_give_equal_bytes(tmp_path: Path, wide: ArtefactContents) -> None:
    for place, teacher in (("a", {"b": 1, "a": 2}), ("b", {"a": 2, "b": 1})):
        write_artefact(tmp_path / place, "toy", wide, Provenance(encoder="x", teacher=teacher))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_order_of_the_pairs_does_not_matter(tmp_path: Path, wide: ArtefactContents) -> None:
    order = [3, 1, 0, 2]
    shuffled = dataclasses.replace(
        wide,
        pair_users=wide.pair_users[order],
        pair_items=wide.pair_items[order],
        neg_rows=wide.neg_rows[order],
    )
    write_artefact(tmp_path / "a", "toy", wide, Provenance(encoder="x"))
    write_artefact(tmp_path / "b", "toy", shuffled, Provenance(encoder="x"))
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")


def test_export_equals_direct_text_and_import_restores_every_byte(tmp_path: Path, wide: ArtefactContents) -> None:
    origin = Provenance(encoder="x", item_fields=("title",))
    write_artefact(tmp_path / "direct", "toy", wide, origin)
    write_artefact(tmp_path / "small", "toy", wide, origin, text_rows_limit=0)
    assert not read_manifest(tmp_path / "small", "toy").has_file("item_text")
    export_text(tmp_path / "small", "toy")
    whole = snapshot(tmp_path / "direct")
    assert snapshot(tmp_path / "small") == whole
    for suffix in ("hnlm_emb.npy", "item_text.npy", "hnlm_index.npy", "hnlm_tokens"):
        (tmp_path / "small" / f"toy.{suffix}").unlink()
    import_text(tmp_path / "small", "toy")
    assert snapshot(tmp_path / "small") == whole
    assert ArtefactReader.open(tmp_path / "small", "toy")


def test_text_of_another_program_alone_is_enough(tmp_path: Path) -> None:
    (tmp_path / "mine.hnlm").write_text(
        "user_id:token\titem_id:token\tneg_id:token_seq\nz\tb\tgen:1\na\tb\tgen:2 gen:1\n"
    )
    (tmp_path / "mine.hnlm_emb").write_text("neg_id:token\tneg_emb:float_seq\ngen:1\t1 2e-1\ngen:2\t.25 -3\n")
    (tmp_path / "mine.item_text").write_text("item_id:token\ttext_emb:float_seq\nc\t0.6 0.8\n")
    with pytest.raises(ArtefactError, match="pairs_hash"):
        import_text(tmp_path, "mine")
    manifest = import_text(tmp_path, "mine", pairs_hash="abc", pairs=4)
    assert (manifest.coverage, manifest.items, manifest.negatives_per_pair) == (0.5, 2, 2)
    bound = ArtefactReader.open(tmp_path, "mine", pairs_hash="abc").bind(["[PAD]", "a", "z"], ["[PAD]", "b", "c"])
    rows = bound.pair_rows(np.array([1, 2]), np.array([1, 1]))
    assert rows.tolist() == [[1, 0], [0, -1]]
    np.testing.assert_array_equal(bound.read(rows[0]), np.float16([[0.25, -3], [1, 0.2]]))
    assert bound.item_text()[1].tolist() == [False, False, True]


def test_a_rebuild_removes_text_that_no_longer_fits(built: Path, contents: ArtefactContents) -> None:
    assert (built / "toy.hnlm_emb").exists()
    write_artefact(built, "toy", contents, Provenance(encoder="x"), text_rows_limit=0)
    assert not (built / "toy.hnlm_emb").exists()
    assert ArtefactReader.open(built, "toy")
