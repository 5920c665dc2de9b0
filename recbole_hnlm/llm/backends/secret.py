"""The key of a server: read from the environment, and kept out of every text."""

from __future__ import annotations

import os

from recbole_hnlm.options.chat import OpenAIOptions

_NO_KEY = "none"
_SHORTEST = 6


class Secret:
    """A key that does not show itself."""

    def __init__(self, value: str) -> None:
        """Hold ``value``."""
        self._value = value

    def __repr__(self) -> str:
        return "Secret(...)"

    def reveal(self) -> str:
        """The key, for the client alone."""
        return self._value

    def hide(self, text: str) -> str:
        """``text`` with the key, which some servers echo, blotted out."""
        return text.replace(self._value, "[key]") if len(self._value) >= _SHORTEST else text


def read_secret(options: OpenAIOptions, required: bool = True) -> Secret:
    """The key in the variable that the options name.

    Args:
        options: Which server is asked.
        required: Whether OpenAI's own server will be asked, which refuses to answer without a key.

    Raises:
        ValueError: If it is not set and the server is OpenAI's, or it cannot be sent.
    """
    value = os.environ.get(options.api_key_env, "").strip()
    if not value:
        if options.is_openai and required:
            raise ValueError(
                f"the environment variable {options.api_key_env} holds no key; export it, or set llm_api_key_env or "
                "llm_base_url (a server of your own needs no key)"
            )
        return Secret(_NO_KEY)
    if not value.isascii() or not value.isprintable():
        raise ValueError(f"the key in {options.api_key_env} holds characters that no header can carry; set it anew")
    return Secret(value)
