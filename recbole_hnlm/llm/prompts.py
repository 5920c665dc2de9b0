"""Prompts: three templates per domain, read from YAML, checked once and filled safely."""

from __future__ import annotations

import difflib
import hashlib
import importlib.resources
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ITEM_PROFILE, USER_PROFILE, HARD_NEGATIVE = "item_profile", "user_profile", "hard_negative"
AUTO = "auto"
GENERIC = "generic"
DOMAINS = ("products", "places", "media", GENERIC)
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REQUIRED = {
    ITEM_PROFILE: ("title", "attributes", "words", "reply"),
    USER_PROFILE: ("items", "words", "reply"),
    HARD_NEGATIVE: ("user_profile", "pairs", "count", "reply"),
}
_OPTIONAL = {ITEM_PROFILE: ("reviews",), USER_PROFILE: ("attributes", "reviews"), HARD_NEGATIVE: ("name_words",)}
_SIGNS = {
    "products": r"brand|price|asin|sku|manufacturer|product|sales|store|material|colou?r",
    "places": r"city|state|address|postal|zip|latitude|longitude|business|venue|neighbou?rhood|country|cuisine|is_open",
    "media": r"movie|film|book|song|track|album|artist|author|director|actor|genre|isbn|podcast|game|lyrics|publisher",
}


@dataclass(frozen=True)
class PromptTemplate:
    """One prompt with its placeholders.

    Attributes:
        name: ``DOMAIN-VERSION/TEMPLATE``, part of the key under which replies are cached.
        system: What the model is told of its task.
        user: What it is asked; this and ``system`` may hold placeholders such as ``{title}``.
    """

    name: str
    system: str
    user: str

    def messages(self, values: Mapping[str, str]) -> tuple[dict[str, str], ...]:
        """The chat messages with every placeholder filled.

        A value is put in as it stands: braces in it are never taken for placeholders.

        Raises:
            KeyError: If a placeholder has no value.
        """
        return (
            {"role": "system", "content": fill(self.system, values)},
            {"role": "user", "content": fill(self.user, values)},
        )


@dataclass(frozen=True)
class PromptSet:
    """The three templates of one domain.

    Attributes:
        domain: Name of the domain.
        version: Version of the texts, by their author.
        item_profile: Asks for the profile of an item.
        user_profile: Asks for the profile of a user.
        hard_negative: Asks for hard negatives of one or several pairs of a user.
    """

    domain: str
    version: str
    item_profile: PromptTemplate
    user_profile: PromptTemplate
    hard_negative: PromptTemplate

    @property
    def name(self) -> str:
        """``DOMAIN-VERSION``, for manifests."""
        return f"{self.domain}-{self.version}"

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits of the texts' sha256, which tell a changed text whose version was left as it was."""
        parts = (self.item_profile, self.user_profile, self.hard_negative)
        told = "\0".join(text for part in parts for text in (part.system, part.user))
        return hashlib.sha256(told.encode()).hexdigest()[:12]


def fill(template: str, values: Mapping[str, str]) -> str:
    """``template`` with its placeholders replaced in one pass, so that values are never looked through.

    >>> fill('{a} of {"name": {b}}', {"a": "{b}", "b": "{a}"})
    '{b} of {"name": {a}}'
    """
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


def choose_domain(item_fields: Iterable[str]) -> str:
    """The domain whose signs most of the item's fields carry in their names; ``generic`` without a clear one.

    >>> choose_domain(["item_id", "title", "brand", "categories", "price"])
    'products'
    >>> choose_domain(["item_id", "movie_title", "release_year", "class"])
    'media'
    """
    fields = [field.lower() for field in item_fields]
    counts = {domain: sum(bool(re.search(sign, field)) for field in fields) for domain, sign in _SIGNS.items()}
    best = max(counts.values())
    leading = [domain for domain, count in counts.items() if count == best]
    return leading[0] if best and len(leading) == 1 else GENERIC


def load_prompts(domain: str = AUTO, path: str | Path | None = None, item_fields: Iterable[str] = ()) -> PromptSet:
    """The prompts of a run.

    Args:
        domain: One of :data:`DOMAINS`, or ``auto`` to decide by the names of the item's fields.
        path: A YAML file of the user's own, of the form of ``properties/prompts/generic.yaml``; goes before ``domain``.
        item_fields: Names of the item's fields, for ``auto``.

    Raises:
        ValueError: If the domain is unknown, or a template or version is missing or wrong.
        FileNotFoundError: If there is no such file.
    """
    if path is not None:
        own = Path(path)
        if not own.is_file():
            raise FileNotFoundError(f"llm_prompts={str(path)!r} does not exist; give a YAML file or leave it out")
        return parse_prompts(own.read_text(encoding="utf-8"), str(own))
    if domain == AUTO:
        domain = choose_domain(item_fields)
    if domain not in DOMAINS:
        raise ValueError(f"llm_domain={domain!r} is not one of {[AUTO, *DOMAINS]}{_nearest(domain, (AUTO, *DOMAINS))}")
    file = importlib.resources.files("recbole_hnlm.properties").joinpath("prompts", f"{domain}.yaml")
    return parse_prompts(file.read_text(encoding="utf-8"), f"{domain}.yaml")


def prompts_edition(domain: str = AUTO, path: str | Path | None = None) -> str:
    """Name and fingerprint of the prompts of a run, which change with their words wherever the file lies.

    ``auto`` stands for the prompts of every domain, since the choice among them is made by the dataset.

    Raises:
        ValueError: As :func:`load_prompts`.
        FileNotFoundError: If there is no such file.
    """
    if path is not None or domain != AUTO:
        found = load_prompts(domain, path)
        return f"{found.name} {found.fingerprint}"
    told = "".join(load_prompts(one).fingerprint for one in DOMAINS)
    return f"{AUTO} {hashlib.sha256(told.encode()).hexdigest()[:12]}"


def single_template(file: str, stage: str) -> PromptTemplate:
    """The one prompt of a packaged file of its own, such as ``judge.yaml``, named ``VERSION/stage``."""
    source = importlib.resources.files("recbole_hnlm.properties").joinpath("prompts", file)
    found = yaml.safe_load(source.read_text(encoding="utf-8"))
    return PromptTemplate(f"{found['version']}/{stage}", found["system"].strip(), found["user"].strip())


def parse_yaml(text: str, source: object) -> Any:
    """What YAML holds.

    Args:
        text: The YAML.
        source: What the error message calls it.

    Raises:
        ValueError: If it is none.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{source} is no YAML: {' '.join(str(error).split())}") from error


def parse_prompts(text: str, source: str) -> PromptSet:
    """A set of prompts out of YAML.

    Args:
        text: The YAML.
        source: What error messages call it.

    Raises:
        ValueError: Naming what is missing, unknown or of the wrong form.
    """
    content = parse_yaml(text, source)
    if not isinstance(content, dict):
        raise ValueError(f"{source} should map domain, version and {list(_REQUIRED)} to their values; got {content!r}")
    known = ("domain", "version", *_REQUIRED)
    _refuse_unknown(content, known, source)
    missing = [key for key in known if key not in content]
    if missing:
        raise ValueError(f"{source} lacks {missing}; take properties/prompts/generic.yaml as a pattern")
    domain, version = _name(content, "domain", source), _name(content, "version", source)
    templates = {
        name: _parse_template(content[name], name, f"{domain}-{version}/{name}", f"{source}: {name}")
        for name in _REQUIRED
    }
    return PromptSet(domain, version, **templates)


def _name(content: Mapping[str, Any], key: str, source: str) -> str:
    value = content[key]
    text = "" if isinstance(value, bool) else str(value)
    if not isinstance(value, (int, str)) or not _VERSION.fullmatch(text):
        raise ValueError(f"{source}: {key}={value!r} should be a number or a word such as 1 or my-2; correct it")
    return text


def _parse_template(content: Any, kind: str, name: str, source: str) -> PromptTemplate:
    if not isinstance(content, dict) or not all(isinstance(text, str) for text in content.values()):
        raise ValueError(f"{source} should have the texts 'system' and 'user', got {type(content).__name__}")
    _refuse_unknown(content, ("system", "user"), source)
    for part in ("system", "user"):
        if not content.get(part, "").strip():
            raise ValueError(f"{source} lacks the text {part!r}; write it")
    used = set(_PLACEHOLDER.findall(content["system"] + content["user"]))
    allowed = (*_REQUIRED[kind], *_OPTIONAL[kind])
    for placeholder in sorted(used - set(allowed)):
        choices = ", ".join(f"{{{other}}}" for other in allowed)
        hint = _nearest(placeholder, allowed)
        raise ValueError(f"{source} has the unknown placeholder {{{placeholder}}}; it may have {choices}{hint}")
    lacking = [placeholder for placeholder in _REQUIRED[kind] if placeholder not in used]
    if lacking:
        raise ValueError(f"{source} lacks the placeholder {{{lacking[0]}}}; without it the model is not told enough")
    return PromptTemplate(name, content["system"].strip(), content["user"].strip())


def _refuse_unknown(content: Mapping[Any, Any], known: tuple[str, ...], source: str) -> None:
    for key in content:
        if key not in known:
            raise ValueError(
                f"{source} has the unknown key {key!r}; it may have {list(known)}{_nearest(str(key), known)}"
            )


def _nearest(word: str, choices: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(choices), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
