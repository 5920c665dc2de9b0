"""Replies of a language model: read with tolerance for their wrapping, then held to a schema without any."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recbole_hnlm.artefacts.atomic import clean_text
from recbole_hnlm.llm.words import cut_words

_TRAILING_COMMA = re.compile(r",(\s*[}\]])")
_OPENING = re.compile(r"\{\s*[\"}]|\[\s*[\"{\]]")
_THOUGHTS = re.compile(r"<think>.*?</think>", re.DOTALL)
_END_OF_THOUGHTS = "</think>"
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_TYPES: dict[str, type] = {"object": dict, "array": list, "string": str, "integer": int}


class ReplyError(ValueError):
    """A reply that cannot be used; the message tells the model what to do about it."""


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    required = list(properties)
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(items: Mapping[str, Any], count: int) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": count, "maxItems": count}


_TEXT = {"type": "string"}
_NEGATIVE = _object(name=_TEXT, reason=_TEXT)
PROFILE_SCHEMA: Mapping[str, Any] = _object(summarization=_TEXT, reasoning=_TEXT)


def negatives_schema(pairs: int, count: int) -> dict[str, Any]:
    """Schema of the hard negatives of ``pairs`` training pairs, ``count`` for each."""
    if pairs == 1:
        return _NEGATIVE if count == 1 else _object(negatives=_array(_NEGATIVE, count))
    return _object(pairs=_array(_object(pair={"type": "integer"}, negatives=_array(_NEGATIVE, count)), pairs))


def example_of(schema: Mapping[str, Any]) -> Any:
    """A value of the form of ``schema``, one entry a list."""
    kind = schema["type"]
    if kind == "object":
        return {name: example_of(inner) for name, inner in schema["properties"].items()}
    if kind == "array":
        return [example_of(schema["items"])]
    return "..." if kind == "string" else 1


def form_of(schema: Mapping[str, Any]) -> str:
    """The sentence that asks for ``schema``, for servers that cannot be given one."""
    lists = "" if "array" not in json.dumps(schema) else " Lists have one entry for each thing asked for, in order."
    return f"Reply with one JSON object of this form and nothing else: {json.dumps(example_of(schema))}{lists}"


def read_json(text: str) -> Any:
    """The first JSON object or list in ``text``.

    Fences, text before and after, thoughts and commas before a closing bracket are passed over.

    Raises:
        ReplyError: If there is none, or it is cut off.

    >>> read_json('Sure! ```json\\n{"name": "a, ]", "reason": "b",}\\n``` Anything else?')
    {'name': 'a, ]', 'reason': 'b'}
    """
    decoder = json.JSONDecoder(strict=False)  # models break lines within strings
    text = _THOUGHTS.sub("", text)
    answer = text.rpartition(_END_OF_THOUGHTS)[2]  # their beginning may stand in the chat template, not in the reply
    text = answer if _OPENING.search(answer) else text
    opening = _OPENING.search(text)
    if opening is None:
        raise ReplyError("there is no JSON object in the reply")
    for candidate in (text[opening.start() :], _without_trailing_commas(text[opening.start() :])):
        try:
            return decoder.raw_decode(candidate)[0]
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError
            fault = str(error)
    raise ReplyError(f"the JSON is broken or cut off ({fault})")


def _without_trailing_commas(text: str) -> str:
    """``text`` without commas before a closing bracket, but with all its strings as they are."""
    parts, end = [], 0
    for string in _STRING.finditer(text):
        parts += [_TRAILING_COMMA.sub(r"\1", text[end : string.start()]), string[0]]
        end = string.end()
    return "".join([*parts, _TRAILING_COMMA.sub(r"\1", text[end:])])


def check_schema(value: Any, schema: Mapping[str, Any], where: str = "the reply") -> None:
    """Refuse a value that is not of the form of ``schema`` (the part of JSON Schema that this module writes).

    Raises:
        ReplyError: Naming the first place that is wrong.
    """
    kind = schema["type"]
    fits = isinstance(value, _TYPES[kind]) and not isinstance(value, bool)
    if not fits:
        raise ReplyError(f"{where} should be of type {kind}, got {json.dumps(value)[:80]}")
    if kind == "string" and not value.strip():
        raise ReplyError(f"{where} is empty")
    if kind == "object":
        known = schema["properties"]
        for name in schema["required"]:
            if name not in value:
                raise ReplyError(f"{where} lacks {name!r}; it should have exactly {list(known)}")
        for name in value:
            if name not in known:
                raise ReplyError(f"{where} has the unknown {name!r}; it should have exactly {list(known)}")
            check_schema(value[name], known[name], f"{name!r}" if where == "the reply" else f"{name!r} of {where}")
    if kind == "array":
        if not schema["minItems"] <= len(value) <= schema["maxItems"]:
            raise ReplyError(f"{where} should have {schema['minItems']} entries, got {len(value)}")
        for place, entry in enumerate(value, start=1):
            check_schema(entry, schema["items"], f"entry {place} of {where}")


@dataclass(frozen=True)
class Answer:
    """What a reply says.

    Attributes:
        texts: A profile's single text; or the negatives' names, pair after pair in the order they were asked.
        cut: How many of the texts were longer than allowed and were cut.
    """

    texts: tuple[str, ...]
    cut: int


def read_profile(text: str, words: int) -> Answer:
    """The profile in a reply, at most ``words`` words of it.

    Raises:
        ReplyError: If the reply is not ``{"summarization": ..., "reasoning": ...}``.
    """
    value = read_json(text)
    check_schema(value, PROFILE_SCHEMA)
    return _cut([value["summarization"]], words)


def read_negatives(text: str, pairs: int, count: int, words: int) -> Answer:
    """The names of hard negatives in a reply: ``pairs * count`` of them, each of at most ``words`` words.

    A bare list, and a list of one where an object was asked for, are taken as meant.

    Raises:
        ReplyError: If the reply is not of :func:`negatives_schema`, or leaves a pair out.
    """
    value = _unwrapped(read_json(text), pairs, count)
    check_schema(value, negatives_schema(pairs, count))
    if pairs == 1:
        return _cut([entry["name"] for entry in ([value] if count == 1 else value["negatives"])], words)
    by_pair = {entry["pair"]: entry["negatives"] for entry in value["pairs"]}
    if sorted(by_pair) != list(range(1, pairs + 1)):
        raise ReplyError(f"the pairs should be numbered 1 to {pairs}, each once; got {sorted(by_pair)}")
    return _cut([entry["name"] for pair in range(1, pairs + 1) for entry in by_pair[pair]], words)


def _unwrapped(value: Any, pairs: int, count: int) -> Any:
    if pairs > 1:
        return {"pairs": value} if isinstance(value, list) else value
    if count > 1:
        return {"negatives": value} if isinstance(value, list) else value
    if isinstance(value, dict) and list(value) == ["negatives"]:
        value = value["negatives"]
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _cut(texts: Sequence[str], words: int) -> Answer:
    """The texts on one line and cut to ``words``; halves of surrogate pairs, which no file can hold, go.

    Raises:
        ReplyError: If nothing is left of a text.
    """
    whole = [clean_text(text.encode("utf-8", "ignore").decode()) for text in texts]
    if not all(whole):
        raise ReplyError("a text has no readable character")
    short = [cut_words(text, words) for text in whole]
    return Answer(tuple(short), sum(one != other for one, other in zip(whole, short, strict=True)))
