"""The generator of benchmarks: distinct pairs, exactly as many as asked for, a power law, the same for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import synthetic
from benchmarks.synthetic import generate, power_law, write_atomic


@pytest.mark.parametrize(("size", "users", "items"), [(50_000, 0, 0), (9_000, 100, 400), (1_000, 1_000, 40)])
def test_pairs_are_distinct_and_of_the_size_asked_for(size: int, users: int, items: int) -> None:
    data = generate(size, 1, users, items)
    assert len(data.users) == len(data.items) == size
    assert len(np.unique(data.users.astype(np.int64) * data.n_items + data.items)) == size
    assert data.users.min() == 1 and data.users.max() == data.n_users - 1 == (users or size // 36)
    assert data.items.min() >= 1 and data.items.max() <= data.n_items - 1 == (items or size // 100)
    counts = np.bincount(data.users)[1:]
    assert counts.min() >= 1 and counts.max() <= (data.n_items - 1) // 4


def test_blocks_change_nothing_but_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(synthetic, "BLOCK", 3_000)
    data = generate(20_000, 4)
    again = generate(20_000, 4)
    assert np.array_equal(data.users, again.users) and np.array_equal(data.items, again.items)
    assert not np.array_equal(data.items, generate(20_000, 5).items)
    assert (np.diff(data.users) >= 0).all() and np.bincount(data.users)[1:].min() >= 1
    path = write_atomic(tmp_path / "made", 20_000, 4)
    assert path == tmp_path / "made" / "made.inter"
    assert path.read_text().splitlines()[0] == "user_id:token\titem_id:token"
    written = np.loadtxt(path, dtype=np.int64, skiprows=1, delimiter="\t")
    assert np.array_equal(written, np.stack([data.users, data.items], axis=1))


def test_activity_and_popularity_follow_the_power_law() -> None:
    data = generate(400_000, 2)
    for ids, count in ((data.users, data.n_users - 1), (data.items, data.n_items - 1)):
        shares = np.sort(np.bincount(ids, minlength=count + 1)[1:])[::-1] / 400_000
        expected = power_law(count)
        ranks = slice(count // 100, count // 2)
        slope = np.polyfit(np.log(expected[ranks]), np.log(shares[ranks]), 1)[0]
        assert slope == pytest.approx(1.0, abs=0.12)
        rank_of_id = np.argsort(np.argsort(-np.bincount(ids, minlength=count + 1)[1:]))
        assert abs(np.corrcoef(rank_of_id, np.arange(count))[0, 1]) < 0.1  # ids do not give popularity away


def test_sizes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="do not fit 10 users"):
        generate(1_000, 1, 10, 100)
