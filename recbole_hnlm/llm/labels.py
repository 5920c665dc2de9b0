"""Local labels in place of ids: how candidates stand in a prompt, and which of them a reply names."""

from __future__ import annotations

from collections.abc import Sequence

from recbole_hnlm.llm.replies import ReplyError


def labels_of(count: int) -> list[str]:
    """``A1``, ``A2`` ..."""
    return [f"A{place}" for place in range(1, count + 1)]


def labelled(lines: Sequence[str]) -> str:
    """One line each after its label; text of strangers never makes a line of its own."""
    labels = labels_of(len(lines))
    return "\n".join(f"{label}: {' '.join(line.split())}" for label, line in zip(labels, lines, strict=True))


def read_labels(given: Sequence[str], count: int) -> tuple[str, ...]:
    """Labels of a reply, each of them one of ``count`` and named once.

    Raises:
        ReplyError: If one was not given, or comes twice.
    """
    labels, known = tuple(label.strip() for label in given), labels_of(count)
    for label in labels:
        if label not in known:
            raise ReplyError(f"{label!r} is no label; they are {known[0]} to {known[-1]}")
    if len(set(labels)) < len(labels):
        raise ReplyError("a label comes twice; name each once")
    return labels


def place_of_label(label: str) -> int:
    """Place of a label among the candidates, from 0.

    >>> place_of_label("A3")
    2
    """
    return int(label[1:]) - 1
