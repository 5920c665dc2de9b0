"""Classes of the user's own, which options name by ``package.module:Class``."""

from __future__ import annotations

import hashlib
import importlib
import sys
from pathlib import Path
from typing import Any


def import_class(path: str, key: str) -> Any:
    """What ``package.module:Class`` names; whether it is a class is for the caller to ask.

    Args:
        path: What the user gave.
        key: The option, for messages.

    Raises:
        ValueError: If it cannot be imported.
    """
    module, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"{key} {path!r} cannot be imported: {error}; give package.module:Class of a package that is installed, or "
            "of a module in the folder you start from or on PYTHONPATH"
        ) from error


def import_from_here() -> None:
    """Let modules of the working directory be imported, after all others, as ``python -m`` does for its own."""
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)


def source_digest(paths: list[str]) -> str:
    """Short hash of the files that hold classes of the user's own; what those files import is not in it.

    Args:
        paths: ``package.module:Class`` each.

    Returns:
        The hash, empty where there is no such class.
    """
    modules = sorted({path.partition(":")[0] for path in paths})
    if not modules:
        return ""
    hashed = hashlib.sha256()
    for module in modules:
        file = importlib.import_module(module).__file__
        hashed.update(f"{module}\0".encode() + (Path(file).read_bytes() if file else b""))
    return hashed.hexdigest()[:20]


def known_by(name: str) -> str:
    """What a cache knows a class by: its name, and one of the user's own also what its file holds."""
    return f"{name} {source_digest([name])}" if ":" in name and not name.startswith("recbole_hnlm.") else name
