"""Texts cut to a number of words, which is what prompts and budgets count by."""

from __future__ import annotations

import re

_LETTERS = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Japanese, Chinese
)
_CHARACTERS_PER_WORD = 40
_UNSPACED = re.compile(f"[{_LETTERS}]")
_WORD = re.compile(f"[{_LETTERS}]|[^\\s{_LETTERS}]+")


def cut_words(text: str, words: int) -> str:
    """``text`` on one line, at most ``words`` words of it; of scripts without spaces every letter is one.

    A word may be long, but not all of them: what has more than 40 characters a word is cut there.
    """
    return _cut(text, words)[: words * _CHARACTERS_PER_WORD].rstrip()


def _cut(text: str, words: int) -> str:
    if not _UNSPACED.search(text):
        return " ".join(text.split(maxsplit=words)[:words])
    line = " ".join(text.split())
    for count, word in enumerate(_WORD.finditer(line)):
        if count == words:
            return line[: word.start()].rstrip()
    return line
