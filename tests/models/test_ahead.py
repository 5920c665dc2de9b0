"""Reading ahead: the same answers as at once, whatever the order of what is asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from recbole_hnlm.models.ahead import ReadAhead, look_ahead
from recbole_hnlm.models.text import TextVectors
from recbole_hnlm.samplers import TrainingInteractions

BATCHES = [torch.stack([torch.arange(n, n + 5), torch.arange(2 * n, 2 * n + 5)], dim=1) for n in range(12)]


class Reader:
    """Joins two columns, and keeps who asked and whether it was another thread."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, bool]] = []

    def __call__(self, batch: Tensor) -> Tensor:
        self.asked.append((int(batch[0, 0]), threading.current_thread() is threading.main_thread()))
        if int(batch[0, 0]) == 7:
            raise OSError("row 7 is gone")
        return joined(batch)


def joined(batch: Tensor) -> Tensor:
    return batch[:, 0] * 1000 + batch[:, 1]


def test_answers_are_those_of_reading_at_once_and_come_from_the_other_thread() -> None:
    reader = Reader()
    ahead = ReadAhead(reader, depth=3)
    taken = []
    for batch in look_ahead(BATCHES[:6], ahead.tell):
        assert len(ahead) == min(3, 6 - len(taken))
        taken.append(ahead.take(batch.clone()))
    assert reader.asked == [(n, False) for n in range(6)]
    assert all(torch.equal(found, joined(batch)) for found, batch in zip(taken, BATCHES, strict=False))
    ahead.close()


def test_a_batch_that_was_not_told_of_is_read_on_the_spot() -> None:
    reader = Reader()
    ahead = ReadAhead(reader, depth=2)
    assert ahead.tell(BATCHES[0]) and ahead.tell(BATCHES[1]) and not ahead.tell(BATCHES[2])
    assert torch.equal(ahead.take(BATCHES[3]), joined(BATCHES[3]))
    assert (3, True) in reader.asked and len(ahead) == 2
    assert torch.equal(ahead.take(BATCHES[0])[:2], torch.tensor([0, 1001]))
    assert torch.equal(ahead.take(BATCHES[1][:2]), joined(BATCHES[1][:2])) and len(ahead) == 1
    ahead.close()


def test_skipped_and_stale_batches_are_dropped() -> None:
    ahead = ReadAhead(Reader(), depth=3)
    for batch in BATCHES[:3]:
        ahead.tell(batch)
    ahead.take(BATCHES[1])
    assert len(ahead) == 1  # batch 0 was skipped
    for batch in BATCHES[3:6] + BATCHES[3:4]:  # an epoch was broken off: nobody asks for batch 2 any more
        ahead.take(batch)
    assert len(ahead) == 0
    assert ahead.tell(BATCHES[5])
    ahead.close()


def test_an_error_comes_where_the_answer_is_asked_for() -> None:
    ahead = ReadAhead(Reader(), depth=2)
    ahead.tell(BATCHES[7])
    ahead.tell(BATCHES[8])
    with pytest.raises(OSError, match="row 7 is gone"):
        ahead.take(BATCHES[7])
    assert int(ahead.take(BATCHES[8])[0]) == 8016
    ahead.close()
    with pytest.raises(ValueError, match="at least 1"):
        ReadAhead(Reader(), depth=0)


@pytest.mark.parametrize("depth", [1, 2, 5, 20])
@pytest.mark.parametrize("taken", [True, False])
def test_looking_ahead_changes_neither_what_comes_nor_its_order(depth: int, taken: bool) -> None:
    waiting: list[int] = []
    furthest = -1

    def source() -> Iterator[int]:
        nonlocal furthest
        for number in range(8):
            furthest = number
            yield number

    def tell(number: int) -> bool:
        if len(waiting) >= depth:
            return False
        waiting.append(number)
        return True

    seen = []
    for number in look_ahead(source(), tell):
        assert furthest <= number + depth  # no more than one beyond those told of
        if taken:
            assert waiting.pop(0) == number
        seen.append(number)
    assert seen == list(range(8))


class Pairs:
    """One vector of its own for each pair with an even user, and several where K is 2; in half precision."""

    matrix = np.random.default_rng(0).standard_normal((64, 6)).astype(np.float16)

    def __init__(self, per_pair: int) -> None:
        self.per_pair = per_pair

    def pair_rows(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        first = np.where(users % 2 == 0, users * 8 + items, -1)
        rows = [first, np.where((first >= 0) & (items > 3), first // 2, -1)]
        return np.stack(rows[: self.per_pair], axis=1)

    def read(self, rows: np.ndarray) -> np.ndarray:
        return self.matrix[rows]


@pytest.mark.parametrize("per_pair", [1, 2])
def test_vectors_read_ahead_are_those_read_at_once_bit_by_bit(per_pair: int) -> None:
    interactions = TrainingInteractions(torch.tensor([1, 2]), torch.tensor([2, 3]), n_users=8, n_items=8)
    generator = torch.Generator().manual_seed(0)

    def text() -> TextVectors:
        mask = torch.arange(8) > 0
        return TextVectors(torch.ones(8, 6), mask, interactions, Pairs(per_pair), torch.device("cpu"))

    at_once, ahead = text(), text()
    batches = [at_once.rows_of(*torch.randint(8, (2, 32), generator=generator)) for _ in range(6)]
    for batch in look_ahead(batches, ahead.tell):
        expected, found = at_once.pair_vectors(batch), ahead.pair_vectors(batch)
        assert torch.equal(found.index, expected.index) and torch.equal(found.known, expected.known)
        assert found.vectors.numpy().tobytes() == expected.vectors.numpy().tobytes()
        rows = batch.numpy()
        for pair in range(32):  # a plain loop in double precision
            known = [Pairs.matrix[row].astype(np.float64) for row in rows[pair] if row >= 0]
            mean = np.mean(known, axis=0) if known else np.zeros(6)
            np.testing.assert_allclose(found.vectors[found.index[pair]].numpy(), mean, rtol=1e-6)
            assert bool(found.present[pair]) is bool(known)
