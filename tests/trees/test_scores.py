"""False-negative scores: features against loops, what calibration may see, and planted data with a known answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from recbole_hnlm.samplers import TrainingInteractions
from recbole_hnlm.samplers.tree_codes import TreeCodes
from recbole_hnlm.trees import build
from recbole_hnlm.trees.build import TreeSource, build_dual_trees
from recbole_hnlm.trees.calibration import calibrate, hidden_pairs, judged
from recbole_hnlm.trees.features import Reference, candidate_features, leading_candidates, shared_with_history

USERS, ITEMS, GROUPS = 120, 200, 8


def random_seen(users: int = 15, items: int = 40, seed: int = 0) -> TrainingInteractions:
    rng = np.random.default_rng(seed)
    taken = rng.random((users + 1, items + 1)) < 0.9 * rng.random((users + 1, 1)) ** 2
    taken[0] = taken[:, 0] = False
    taken[1] = False  # a user without a training pair
    taken[2, 1:-3] = True  # and one with few unseen items
    owners, chosen = (torch.from_numpy(side) for side in np.nonzero(taken))
    return TrainingInteractions(owners, chosen, users + 1, items + 1)


def random_codes(items: int, seed: int) -> TreeCodes:
    codes = np.random.default_rng(seed).integers(0, 2, (items, 4)).astype(np.int8)
    codes[0] = -1
    return TreeCodes(torch.from_numpy(codes))


def random_reference(seen: TrainingInteractions, seed: int = 3) -> Reference:
    rng = np.random.default_rng(seed)
    return Reference(*(rng.normal(size=(n, 6)).astype(np.float32) for n in (seen.n_users, seen.n_items)))


def history_of(seen: TrainingInteractions, user: int) -> list[int]:
    return [key % seen.n_items for key in seen.keys.tolist() if key // seen.n_items == user]


def test_leading_candidates_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_hnlm.trees.features._BLOCK", 200)  # several blocks
    seen = random_seen()
    reference = random_reference(seen)
    found = leading_candidates(reference, seen, count=7)
    assert 1 not in found.users.tolist()
    for row, user in enumerate(found.users.tolist()):
        unseen = sorted(set(range(1, seen.n_items)) - set(history_of(seen, user)))
        scores = {item: float(reference.users[user] @ reference.items[item]) for item in unseen}
        best = sorted(unseen, key=lambda item: -scores[item])[:7]  # noqa: B023
        assert found.items[row].tolist() == best + [0] * (7 - len(best))
        assert found.scores[row, : len(best)].tolist() == pytest.approx([scores[item] for item in best], abs=1e-5)
    assert (~found.present).any()


def test_features_against_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recbole_hnlm.trees.features._BLOCK", 300)
    seen = random_seen()
    trees = random_codes(seen.n_items, 1), random_codes(seen.n_items, 2)
    candidates = leading_candidates(random_reference(seen), seen, count=5)
    found = candidate_features(candidates, seen, trees)
    for row, user in enumerate(candidates.users.tolist()):
        there = candidates.present[row]
        scores = candidates.scores[row][there].double()
        for place in torch.nonzero(there).flatten().tolist():
            item, expected = int(candidates.items[row, place]), []
            for tree in trees:
                shared = sorted(
                    (float(tree.shared(torch.tensor(item), torch.tensor(other))) for other in history_of(seen, user)),
                    reverse=True,
                )
                expected += [shared[0], sum(shared[:3]) / len(shared[:3])]
            expected.append(float((candidates.scores[row, place] - scores.mean()) / scores.std(correction=0)))
            expected.append(float(np.log1p(int(seen.item_counts[item]))))
            assert found[row, place].tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = random_seen(users=40)
    candidates = leading_candidates(random_reference(seen), seen, count=5)
    whole = shared_with_history(candidates, seen, random_codes(seen.n_items, 1))
    monkeypatch.setattr("recbole_hnlm.trees.features._BLOCK", 1)
    single = shared_with_history(candidates, seen, random_codes(seen.n_items, 1))
    assert all(torch.equal(one, other) for one, other in zip(whole, single, strict=True))


def test_what_is_hidden() -> None:
    users = np.repeat(np.arange(1, 5), [4, 5, 20, 31])
    hidden = hidden_pairs(users, seed=1)
    assert np.bincount(users[hidden], minlength=5).tolist() == [0, 0, 1, 2, 3]
    assert np.array_equal(hidden, hidden_pairs(users, seed=1)) and not np.array_equal(
        hidden, hidden_pairs(users, seed=2)
    )


def test_figures_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.5, 0.0], [0.2, 0.8, 0.0, 9.0]])
    hidden = np.array([[True, False, False, False], [True, False, True, False]])
    present = np.array([[True, True, True, False], [True, True, True, False]])
    figures = judged(scores, hidden, present)
    assert figures["AUC"] == pytest.approx(4 / 9)  # of 3 x 3 pairs: .9 is above three, .2 above one, 0 above none
    assert figures["AUC by user"] == pytest.approx((1 + 0) / 2)
    assert figures["precision@1"] == 0.5 and figures["precision@5"] == pytest.approx(3 / 10)


def test_users_are_scored_by_a_regression_that_did_not_see_them() -> None:
    """Labels by a coin, different features for every user: within the sample noise is learnt, out of it it is not."""
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5, 100)).astype(np.float32)
    hidden, present = rng.random((60, 5)) < 0.3, np.ones((60, 5), dtype=bool)
    calibration = calibrate(features, hidden, present)
    assert abs(calibration.report["score"]["AUC"] - 0.5) < 0.12
    assert judged(calibration.score(features), hidden, present)["AUC"] > 0.8


def test_nothing_to_learn_from_is_refused() -> None:
    empty = np.zeros((4, 3), dtype=bool)
    with pytest.raises(ValueError, match="finds no hidden training pair .* raise neg_sampler_reference_epochs"):
        calibrate(np.zeros((4, 3, 6), dtype=np.float32), empty, ~empty)


def planted(seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users take most of their items from one of eight groups of items."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(1, USERS + 1):
        own = np.arange(user % GROUPS, ITEMS, GROUPS) + 1
        others = np.setdiff1d(np.arange(1, ITEMS + 1), own)
        rows += [(user, item) for item in (*rng.choice(own, 14, replace=False), *rng.choice(others, 3, replace=False))]
    users, items = np.array(rows).T
    return users, items


def noisy_reference(users: NDArray[np.int64], items: NDArray[np.int64]) -> Reference:
    """A model that knows the groups faintly; from the pairs it is given alone."""
    rng = np.random.default_rng(5)
    faint = 0.35 * np.eye(GROUPS, dtype=np.float32)
    user_rows = faint[np.arange(USERS + 1) % GROUPS] + 0.3 * rng.normal(size=(USERS + 1, GROUPS))
    item_rows = faint[(np.arange(ITEMS + 1) - 1) % GROUPS] + 0.3 * rng.normal(size=(ITEMS + 1, GROUPS))
    return Reference(user_rows.astype(np.float32), item_rows.astype(np.float32))


def planted_source(train: object = noisy_reference, text: bool = True) -> TreeSource:
    users, items = (torch.from_numpy(side) for side in planted())
    seen = TrainingInteractions(users, items, USERS + 1, ITEMS + 1)
    vectors = np.eye(GROUPS, dtype=np.float32)[(np.arange(ITEMS + 1) - 1) % GROUPS]
    vectors = vectors + 0.1 * np.random.default_rng(1).normal(size=vectors.shape).astype(np.float32)
    vectors[0] = 0
    return TreeSource(seen, train, vectors.astype(np.float32) if text else None, seed=3)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", [True, False], ids=["text", "reference rows"])
def test_planted_groups_are_told(text: bool) -> None:
    trees = build_dual_trees(planted_source(text=text))
    score, rank = trees.report["score"], trees.report["reference rank"]
    assert score["AUC"] > 0.6 and score["AUC"] > rank["AUC"] + 0.03
    assert score["AUC by user"] > rank["AUC by user"]
    own = (trees.users % GROUPS) == ((trees.items - 1) % GROUPS)
    assert trees.scores[own].mean() > 1.5 * trees.scores[~own].mean()


def test_scores_are_probabilities() -> None:
    """Calibrated: the mean score of what was judged is about the share that was hidden."""
    trees = build_dual_trees(planted_source())
    share = trees.report["hidden among them"] / trees.report["candidates"]
    assert 0.5 * share < float(trees.scores.mean()) < 2 * share


def test_the_reference_is_trained_without_the_hidden_pairs_and_then_with_all() -> None:
    given: list[set[tuple[int, int]]] = []

    def train(users: NDArray[np.int64], items: NDArray[np.int64]) -> Reference:
        given.append(set(zip(users.tolist(), items.tolist(), strict=True)))
        return noisy_reference(users, items)

    source = planted_source(train)
    trees = build_dual_trees(source)
    whole = set(zip(*(side.tolist() for side in planted()), strict=True))
    first, second = given
    assert second == whole and first < whole and len(whole - first) == trees.report["hidden"] == 2 * USERS


def pairs_in(seen: TrainingInteractions) -> set[tuple[int, int]]:
    return set(zip(*(side.tolist() for side in build.pairs_of(seen)), strict=True))


def kept_in_calibration() -> set[tuple[int, int]]:
    users, items = planted()
    order = np.lexsort((items, users))
    hidden = hidden_pairs(users[order], seed=3)
    return set(zip(*(side[order][~hidden].tolist() for side in (users, items)), strict=True))


def test_the_trees_of_the_calibration_know_nothing_of_hidden_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every array that the first half of the build makes is of the kept pairs alone."""
    seen_by: list[set[tuple[int, int]]] = []

    def spy(users: NDArray[np.int64], items: NDArray[np.int64], *args: object, **named: object) -> NDArray[np.float32]:
        seen_by.append(set(zip(users.tolist(), items.tolist(), strict=True)))
        return np.random.default_rng(0).normal(size=(ITEMS + 1, 4)).astype(np.float32)

    monkeypatch.setattr("recbole_hnlm.trees.build.co_occurrence_vectors", spy)
    build_dual_trees(planted_source())
    assert seen_by[0] == kept_in_calibration()


@pytest.mark.parametrize("name", ["known_rows", "leading_candidates", "candidate_features"])
def test_what_is_calibrated_on_knows_nothing_of_hidden_pairs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a hidden candidate is told by the path that it shares with itself, and by a click more than it has."""
    given: list[set[tuple[int, int]]] = []
    original = getattr(build, name)

    def spy(first: Any, seen: TrainingInteractions, *rest: Any) -> Any:
        given.append(pairs_in(seen))
        return original(first, seen, *rest)

    monkeypatch.setattr(build, name, spy)
    build_dual_trees(planted_source(text=name != "known_rows"))
    assert given == [kept_in_calibration(), set(zip(*(side.tolist() for side in planted()), strict=True))]


def test_same_source_same_result() -> None:
    first, second = (build_dual_trees(planted_source()) for _ in range(2))
    for name in ("collaborative", "semantic", "users", "items", "scores"):
        assert np.array_equal(getattr(first, name), getattr(second, name))
    assert first.report == second.report and "seconds" not in first.report


def test_users_with_few_pairs_cannot_be_calibrated_on() -> None:
    seen = TrainingInteractions(torch.tensor([1, 2]), torch.tensor([1, 2]), 3, 5)
    with pytest.raises(ValueError, match="no user has five training pairs"):
        build_dual_trees(TreeSource(seen, noisy_reference, None, 0))


def test_every_part_has_the_seed_of_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: dict[str, set[Any]] = {}

    def spied(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            seeds.setdefault(name, set()).add(named.get("seed"))
            return original(*args, **named)

        return call

    names = ("hidden_pairs", "co_occurrence_vectors", "balanced_tree", "calibrate")
    for name in names:
        monkeypatch.setattr(build, name, spied(name, getattr(build, name)))
    build_dual_trees(planted_source())
    assert seeds == {name: {3} for name in names}


def test_the_semantic_tree_is_of_directions_alone() -> None:
    source = planted_source()
    assert source.vectors is not None
    scale = 2.0 ** np.random.default_rng(2).integers(-3, 4, (ITEMS + 1, 1))  # powers of two, so that nothing is rounded
    longer = replace(source, vectors=(source.vectors * scale).astype(np.float32))
    assert np.array_equal(build_dual_trees(source).semantic, build_dual_trees(longer).semantic)


def planted_without(dropped: NDArray[np.bool_], text: bool = True) -> TreeSource:
    users, items = (torch.from_numpy(side[~dropped]) for side in planted())
    return replace(planted_source(text=text), seen=TrainingInteractions(users, items, USERS + 1, ITEMS + 1))


def test_users_who_hide_nothing_are_not_calibrated_on() -> None:
    """Nothing of theirs can be found, so that they would lower every probability."""
    users, _ = planted()
    place = np.arange(len(users)) - np.searchsorted(users, users)
    trees = build_dual_trees(planted_without((users <= 20) & (place >= 4)))
    assert trees.report["users"] == USERS - 20 and trees.report["hidden"] == 2 * (USERS - 20)
    assert set(trees.users.tolist()) == set(range(1, USERS + 1))


def test_an_item_without_a_training_pair_has_no_place_by_the_references_rows() -> None:
    _, items = planted()
    trees = build_dual_trees(planted_without(items == 7, text=False))
    for codes in (trees.collaborative, trees.semantic):
        assert (codes[7] == -1).all() and (codes[[6, 8], 0] >= 0).all()
