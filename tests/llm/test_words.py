"""Cutting texts to words, of scripts with spaces and without."""

from __future__ import annotations

import pytest

from recbole_hnlm.llm.words import cut_words


@pytest.mark.parametrize(
    ("text", "words", "expected"),
    [
        ("one  two\tthree", 2, "one two"),
        ("one two", 5, "one two"),
        ("안녕 세상 모두", 2, "안녕 세상"),
        ("一部关于爱情的电影", 4, "一部关于"),
        ("Heat 是一部 film 电影", 4, "Heat 是一部"),
        ("Heat 是一部 film 电影", 5, "Heat 是一部 film"),
        ("Heat 是一部 film 电影", 50, "Heat 是一部 film 电影"),
        ("ภาพยนตร์", 3, "ภาพ"),
        ("映画、名作", 3, "映画、"),
        ("電", 0, ""),
    ],
)
def test_a_letter_is_a_word_where_no_space_parts_words(text: str, words: int, expected: str) -> None:
    assert cut_words(text, words) == expected


def test_words_without_an_end_are_cut_too() -> None:
    assert len(cut_words("x" * 10_000, 20)) == 800
    assert cut_words("a " + "x" * 700, 20) == "a " + "x" * 700
