"""A fine-tuned adapter on disk: LoRA matrices by peft, soft-token projectors, and what they belong to.

A folder with ``adapter_model.safetensors`` and ``adapter_config.json`` (peft's; absent without LoRA),
``soft_tokens.safetensors`` and ``hybrid.json``. No pickle.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from recbole_hnlm.artefacts.storage import hash_file, sync_directory, write_text
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder, SoftTokenProjector
from recbole_hnlm.llm.hybrid.loading import Base, load_base, read_lora
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import PromptTemplate
from recbole_hnlm.options.hybrid import BaseSettings

FORMAT = 1
INFO_FILE = "hybrid.json"
SOFT_FILE = "soft_tokens.safetensors"
LORA_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True)
class AdapterInfo:
    """What ``hybrid.json`` tells.

    Attributes:
        base: Base model as it was named.
        revision: Checksum or commit of its weights.
        model_width: Width S of its vectors.
        prompt_version: Version of the prompt's wording.
        prompt_text: The wording.
        lengths: Most tokens of a prompt and of an item's text.
        projectors: Dataset -> width D of the embeddings and hidden width of its soft-token projector.
        lora: Whether there are LoRA matrices.
        sources: Dataset -> digests of the pairs and of the teacher's tables that it was ever tuned on.
        fingerprint: Of everything that the tuning was given.
        settings: Of the tuning.
        figures: What validation found.
        format: Version of this layout.
    """

    base: str
    revision: str
    model_width: int
    prompt_version: str
    prompt_text: str
    lengths: tuple[int, int]
    projectors: Mapping[str, tuple[int, int]]
    lora: bool
    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    fingerprint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    @property
    def template(self) -> PromptTemplate:
        """The prompt that the adapter was tuned on; it is generated with too."""
        return PromptTemplate(self.prompt_version, self.prompt_text)


def write_weights(model: HybridEncoder, directory: Path) -> None:
    """Write LoRA matrices and projectors of ``model`` into ``directory``."""
    from safetensors.torch import save_file

    directory.mkdir(parents=True, exist_ok=True)
    if has_lora(model):
        model.base.save_pretrained(str(directory), save_embedding_layers=False)
        (directory / "README.md").unlink(missing_ok=True)  # peft's empty model card
        _sort_config(directory / LORA_FILES[0])
    save_file({key: value.contiguous() for key, value in model.soft_tokens.state_dict().items()}, directory / SOFT_FILE)


def _sort_config(path: Path) -> None:
    """Put peft's configuration in order: it writes sets, whose order differs from process to process."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def load_weights(model: HybridEncoder, directory: Path) -> None:
    """Read into ``model`` what :func:`write_weights` wrote of the same one."""
    from safetensors.torch import load_file

    if has_lora(model):
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(model.base, load_file(directory / LORA_FILES[1], device=str(model.device)))
    model.soft_tokens.load_state_dict(load_file(directory / SOFT_FILE, device=str(model.device)))


def has_lora(model: HybridEncoder) -> bool:
    """Whether the base carries LoRA matrices."""
    return hasattr(model.base, "peft_config")


def write_adapter(model: HybridEncoder, info: AdapterInfo, output: Path) -> None:
    """Write an adapter to ``output``, whole or not at all; one that is there is replaced."""
    staged = output.with_name(f".{output.name}.{os.getpid()}.hnlm-tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir(parents=True)
    write_weights(model, staged)
    for path in staged.iterdir():
        with path.open("rb") as handle:
            os.fsync(handle.fileno())
    write_text(staged / INFO_FILE, [json.dumps(asdict(info), indent=1, sort_keys=True), "\n"])
    if output.exists():
        shutil.rmtree(output)
    os.replace(staged, output)
    sync_directory(output.parent)


def read_info(directory: str | Path) -> AdapterInfo:
    """What an adapter's folder tells of it, with its files checked to be there.

    Raises:
        FileNotFoundError: If there is no adapter, or a file of it is missing.
        ValueError: If it cannot be read or is of a newer version.
    """
    path = Path(directory) / INFO_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; give the folder of a fine-tuned adapter as llm_adapter")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] > FORMAT:
            raise ValueError(f"its format {found['format']} is newer than {FORMAT}, upgrade recbole_hnlm")
        found["lengths"] = tuple(found["lengths"])
        found["projectors"] = {name: tuple(widths) for name, widths in found["projectors"].items()}
        info = AdapterInfo(**found)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read ({error}); tune the adapter anew") from error
    for name in (SOFT_FILE, *(LORA_FILES if info.lora else ())):
        if not (path.parent / name).is_file():
            raise FileNotFoundError(f"{path.parent / name} is missing; tune the adapter anew")
    return info


def load_adapter(directory: str | Path, settings: BaseSettings, merged: bool = False) -> tuple[Base, AdapterInfo]:
    """The base model with an adapter's LoRA matrices and projectors; its own prompt lengths hold.

    Args:
        directory: The adapter's folder.
        settings: The base model.
        merged: Whether LoRA's products are added to the base's weights, where these are not quantised: the same vectors
            to rounding, and MiniLM was measured 1.4 times as fast.

    Raises:
        ValueError: If it was tuned on another base model, or a file is damaged.
    """
    directory = Path(directory)
    info = read_info(directory)
    base = load_base(replace(settings, prompt_tokens=info.lengths[0], label_tokens=info.lengths[1]))
    if (info.model_width, info.revision) != (base.model.width, base.revision):
        raise ValueError(
            f"{directory} was tuned on {info.base} ({info.revision}, width {info.model_width}), llm_base is "
            f"{settings.base} ({base.revision}, width {base.model.width}); use the same base model"
        )
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if info.lora:
            read_lora(base.model, directory)
            if merged and settings.quantization == "none":
                base.model.base = base.model.base.merge_and_unload()
        states = load_file(directory / SOFT_FILE)
        for name, (width, hidden) in info.projectors.items():
            projector = SoftTokenProjector(width, hidden, base.model.width)
            projector.load_state_dict({key: states[f"{name}.{key}"] for key in projector.state_dict()})
            base.model.add_projector(name, projector)
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"the adapter in {directory} is damaged ({error}); tune it anew") from error
    base.model.requires_grad_(False)
    base.model.eval()
    return base, info


def adapter_digest(directory: str | Path) -> str:
    """sha256 over the weights of an adapter and the prompt they were tuned on."""
    info = read_info(directory)
    found = hashlib.sha256(f"{info.revision} {info.template.digest} {info.lengths}".encode())
    for name in (SOFT_FILE, *(LORA_FILES if info.lora else ())):
        found.update(hash_file(Path(directory) / name).encode())
    return found.hexdigest()


def check_projector(pairs: PairTexts, info: AdapterInfo, directory: str | Path) -> None:
    """Refuse to ask an adapter whose soft tokens do not fit.

    Raises:
        ValueError: If it has none for the dataset, or for embeddings of another width.
    """
    if pairs.name not in info.projectors:
        raise ValueError(
            f"{directory} has soft tokens for {sorted(info.projectors)}, not for {pairs.name}; transfer it to "
            f"{pairs.name} first"
        )
    width = info.projectors[pairs.name][0]
    if width != pairs.width:
        raise ValueError(
            f"{directory} was fitted to embeddings of width {width} of {pairs.name}, these are {pairs.width} wide; use "
            "the same teacher or transfer the adapter anew"
        )


def check_pairs_tuned_on(pairs: PairTexts, info: AdapterInfo, directory: str | Path) -> None:
    """Refuse an adapter that was tuned on another split of the same dataset.

    Raises:
        ValueError: Saying so.
    """
    if info.sources.get(pairs.name, {}).get("pairs") != pairs.sources()["pairs"]:
        raise ValueError(
            f"{directory} was tuned on other training pairs of {pairs.name}, of another split for instance; held-out "
            "pairs of this one may be among them. Tune one on this split (drop llm_adapter)"
        )


def check_tuned_on(pairs: PairTexts, info: AdapterInfo, directory: str | Path) -> None:
    """Refuse an adapter that was tuned on another split or teacher of the same dataset.

    Raises:
        ValueError: Saying which.
    """
    check_pairs_tuned_on(pairs, info, directory)
    if info.sources[pairs.name].get("tables") != pairs.sources()["tables"]:
        raise ValueError(
            f"{directory} was tuned on another teacher of {pairs.name}, whose embeddings mean nothing to this one's; "
            "use the llm_teacher_* and llm_seed that it was tuned with, or drop llm_adapter"
        )
