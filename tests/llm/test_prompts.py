"""The prompts that come with the package, the user's own, and what is said of wrong ones."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import pytest
import yaml

from recbole_hnlm.llm.prompts import DOMAINS, choose_domain, load_prompts, parse_prompts

OWN = {
    "domain": "wines",
    "version": "cellar-2",
    "item_profile": {"system": "Describe.", "user": "{title} {attributes} {words} {reply}"},
    "user_profile": {"system": "Describe.", "user": "{items} {words} {reply}"},
    "hard_negative": {"system": "Name.", "user": "{user_profile} {pairs} {count} {reply}"},
}
ITEM_VALUES = {"title": "T", "attributes": "A", "reviews": "R", "words": "9", "reply": "F"}


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_has_its_set(domain: str) -> None:
    prompts = load_prompts(domain)
    assert (prompts.domain, prompts.version) == (domain, "1")
    assert prompts.hard_negative.name == f"{domain}-1/hard_negative"
    system, user = prompts.item_profile.messages(ITEM_VALUES)
    assert (system["role"], user["role"]) == ("system", "user")
    assert "Title: T\n" in user["content"] or "Name: T\n" in user["content"]
    assert "{" not in system["content"] + user["content"]
    assert "instructions" in system["content"]  # text of strangers goes in


def test_sets_differ_and_are_package_data() -> None:
    assert len({load_prompts(domain).hard_negative.system for domain in DOMAINS}) == len(DOMAINS)
    folder = importlib.resources.files("recbole_hnlm.properties").joinpath("prompts")
    assert {f"{domain}.yaml" for domain in DOMAINS} <= {file.name for file in folder.iterdir()}


def test_braces_in_an_item_are_text() -> None:
    template = load_prompts("generic").item_profile
    _, user = template.messages({**ITEM_VALUES, "title": "{reply} {x} {0} {{words}} %s \\1"})
    assert "Title: {reply} {x} {0} {{words}} %s \\1\n" in user["content"]


@pytest.mark.parametrize(
    ("fields", "domain"),
    [
        (("item_id", "title", "price", "sales_type", "sales_rank", "brand", "categories"), "products"),
        (("business_id", "item_name", "address", "city", "state", "postal_code", "latitude", "categories"), "places"),
        (("item_id", "movie_title", "release_year", "class"), "media"),
        (("item_id", "book_name", "authors", "original_publication_year"), "media"),
        (("item_id", "name"), "generic"),
        (("brand", "city"), "generic"),
        ((), "generic"),
    ],
)
def test_domain_by_the_names_of_fields(fields: tuple[str, ...], domain: str) -> None:
    assert choose_domain(fields) == domain
    assert load_prompts("auto", item_fields=fields).domain == domain


def test_unknown_domain_tells_the_nearest() -> None:
    with pytest.raises(ValueError, match="llm_domain='product' is not one of .*did you mean 'products'"):
        load_prompts("product")


def test_own_prompts_go_before_the_domain(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(OWN), encoding="utf-8")
    prompts = load_prompts("media", path)
    assert prompts.name == "wines-cellar-2"
    assert prompts.user_profile.messages({"items": "I", "words": "3", "reply": "F"})[1]["content"] == "I 3 F"
    with pytest.raises(FileNotFoundError, match="llm_prompts=.*nowhere.yaml' does not exist"):
        load_prompts(path=tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": None}, "version=None should be a number or a word"),
        ({"version": True}, "version=True should be"),
        ({"version": "a b"}, "version='a b' should be"),
        ({"domain": ""}, "domain='' should be"),
        ({"hard_negativ": {}}, "unknown key 'hard_negativ'.*did you mean 'hard_negative'"),
        ({"item_profile": "text"}, "item_profile should have the texts 'system' and 'user', got str"),
        ({"item_profile": {"system": "x", "user": " "}}, "item_profile lacks the text 'user'"),
        ({"item_profile": {"system": "x", "usr": "y"}}, "unknown key 'usr'.*did you mean 'user'"),
        ({"user_profile": {"system": "x", "user": "{itmes} {words} {reply}"}}, "{itmes}.*did you mean 'items'"),
        ({"user_profile": {"system": "x", "user": "{items} {words}"}}, "lacks the placeholder {reply}"),
    ],
)
def test_wrong_prompts(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"mine.*{message}"):
        parse_prompts(yaml.safe_dump({**OWN, **change}), "mine")


@pytest.mark.parametrize("key", sorted(OWN))
def test_nothing_may_be_missing(key: str) -> None:
    rest = {name: value for name, value in OWN.items() if name != key}
    with pytest.raises(ValueError, match=f"mine lacks \\['{key}'\\]"):
        parse_prompts(yaml.safe_dump(rest), "mine")


@pytest.mark.parametrize("text", ["- a\n- b", "", "a: [", "domain"])
def test_other_yaml(text: str) -> None:
    with pytest.raises(ValueError, match="mine (is no YAML|should map)"):
        parse_prompts(text, "mine")
