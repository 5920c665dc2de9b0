"""What is read out of a reply, and what is refused."""

from __future__ import annotations

import json

import pytest

from recbole_hnlm.llm.replies import (
    PROFILE_SCHEMA,
    ReplyError,
    form_of,
    negatives_schema,
    read_json,
    read_negatives,
    read_profile,
)

PROFILE = '{"summarization": "Likes tea.", "reasoning": "Two teapots."}'


@pytest.mark.parametrize(
    "text",
    [
        PROFILE,
        f"```json\n{PROFILE}\n```",
        f"```\n{PROFILE}\n```\nLet me know!",
        f"As in [1] and {{words}}, here it is: {PROFILE}",
        PROFILE.replace("}", ",\n}"),
        PROFILE.replace("{", "\ufeff{\n "),
        f'<think>The form is {{"x": 1}}.</think>\n{PROFILE}',
        f'A draft: {{"summarization": "Hates tea.", "reasoning": "r"}} No.</think>\n{PROFILE}',  # begun in the template
        f'The form is {{"x": "</think>"}}.</think>\n{PROFILE}',
        f"{PROFILE}</think>",
        PROFILE + PROFILE,
    ],
)
def test_wrapping_is_passed_over(text: str) -> None:
    assert read_profile(text, 100).texts == ("Likes tea.",)


def test_commas_and_brackets_within_strings_stay() -> None:
    assert read_json('{"a": "x, ] \\" ,}", "b": [1, 2,],}') == {"a": 'x, ] " ,}', "b": [1, 2]}


def test_line_breaks_in_strings_become_spaces() -> None:
    assert read_profile('{"summarization": "one\n\ttwo", "reasoning": "r"}', 9).texts == ("one two",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no JSON object"),
        ("I cannot help with that.", "there is no JSON object"),
        (PROFILE[:-5], "broken or cut off"),
        (PROFILE.replace('"Likes', "Likes"), "broken or cut off"),
        ('{"summarization": "x"}', "lacks 'reasoning'; it should have exactly"),
        ('{"summarization": "x", "reasoning": "y", "z": 1}', "unknown 'z'"),
        ('{"summarization": 3, "reasoning": "y"}', "'summarization' should be of type string, got 3"),
        ('{"summarization": "  ", "reasoning": "y"}', "'summarization' is empty"),
        (f"[{PROFILE}]", "the reply should be of type object"),
        ("[" * 100_000 + '"', "broken or cut off"),
        ('{"summarization": ' + "1" * 5000 + "}", "broken or cut off"),
        ('{"summarization": "\\ud83d", "reasoning": "y"}', "no readable character"),
    ],
)
def test_profiles_that_cannot_be_used(text: str, message: str) -> None:
    with pytest.raises(ReplyError, match=message):
        read_profile(text, 100)


def test_words_are_cut_and_counted() -> None:
    text = json.dumps({"summarization": "a b  c d", "reasoning": "r " * 500})
    assert (read_profile(text, 3).texts, read_profile(text, 3).cut) == (("a b c",), 1)
    assert (read_profile(text, 4).texts, read_profile(text, 4).cut) == (("a b c d",), 0)


def test_letters_are_counted_where_no_space_parts_words() -> None:
    reply = read_profile('{"summarization": "喜欢爱情电影", "reasoning": "r"}', 4)
    assert (reply.texts, reply.cut) == (("喜欢爱情",), 1)


def test_half_a_character_is_dropped() -> None:
    """Models cut between the halves of an emoji; such a text could be written to no file."""
    assert read_profile('{"summarization": "tea \\ud83d now \\ud83c\\udf75", "reasoning": "r"}', 9).texts == (
        "tea now \U0001f375",
    )


def _negative(name: str) -> dict[str, str]:
    return {"name": name, "reason": "r"}


@pytest.mark.parametrize(
    ("value", "pairs", "count", "names"),
    [
        (_negative("A"), 1, 1, ("A",)),
        ([_negative("A")], 1, 1, ("A",)),
        ({"negatives": [_negative("A")]}, 1, 1, ("A",)),
        ({"negatives": [_negative("A"), _negative("B")]}, 1, 2, ("A", "B")),
        ([_negative("A"), _negative("B")], 1, 2, ("A", "B")),
        (
            {"pairs": [{"pair": 2, "negatives": [_negative("B")]}, {"pair": 1, "negatives": [_negative("A")]}]},
            *(2, 1, ("A", "B")),
        ),
        ([{"pair": 1, "negatives": [_negative("A")]}, {"pair": 2, "negatives": [_negative("B")]}], 2, 1, ("A", "B")),
    ],
)
def test_negatives(value: object, pairs: int, count: int, names: tuple[str, ...]) -> None:
    assert read_negatives(f"Here: {json.dumps(value)}", pairs, count, 20).texts == names


@pytest.mark.parametrize(
    ("value", "pairs", "count", "message"),
    [
        ({"name": "A"}, 1, 1, "lacks 'reason'"),
        ([_negative("A"), _negative("B")], 1, 1, "should be of type object"),
        ({"negatives": [_negative("A")]}, 1, 2, "'negatives' should have 2 entries, got 1"),
        ({"negatives": [_negative("A"), {"name": "", "reason": "r"}]}, 1, 2, "'name' of entry 2 of 'negatives' is empty"),
        ({"pairs": [{"pair": 1, "negatives": [_negative("A")]}] * 2}, 2, 1, "numbered 1 to 2"),
        ({"pairs": [{"pair": True, "negatives": [_negative("A")]}] * 2}, 2, 1, "should be of type integer"),
        ({"pairs": [{"pair": 1, "negatives": [_negative("A")]}]}, 2, 1, "'pairs' should have 2 entries, got 1"),
    ],
)  # fmt: skip
def test_negatives_that_cannot_be_used(value: object, pairs: int, count: int, message: str) -> None:
    with pytest.raises(ReplyError, match=message):
        read_negatives(json.dumps(value), pairs, count, 20)


@pytest.mark.parametrize(("pairs", "count"), [(1, 1), (1, 3), (4, 1), (4, 2)])
def test_the_form_that_is_asked_for_is_the_one_that_is_read(pairs: int, count: int) -> None:
    schema = negatives_schema(pairs, count)
    shown = read_json(form_of(schema))
    text = json.dumps(shown)
    if pairs == count == 1:
        assert read_negatives(text, 1, 1, 9).texts == ("...",)
    else:
        with pytest.raises(ReplyError, match="should have . entries, got 1"):  # the only thing wrong with it
            read_negatives(text, pairs, count, 9)
    assert ("one entry for each" in form_of(schema)) == (pairs * count > 1)


def test_schemas_are_what_strict_servers_take() -> None:
    """Every object closed and all of its properties required, as OpenAI's strict mode wants it."""

    def objects(schema: object) -> list[dict[str, object]]:
        if not isinstance(schema, dict):
            return []
        own = [schema] if schema.get("type") == "object" else []
        return own + [found for value in schema.values() for found in objects(value)]

    for schema in (PROFILE_SCHEMA, negatives_schema(1, 1), negatives_schema(1, 2), negatives_schema(3, 2)):
        assert schema["type"] == "object"
        for one in objects(dict(schema)):
            assert one["additionalProperties"] is False
            assert one["required"] == list(one["properties"])  # type: ignore[call-overload]
