"""Contrastive fine-tuning of a language model on hybrid prompts (HNLMRec, Eq. 12)."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from recbole_hnlm.llm.hybrid.adapter import INFO_FILE, AdapterInfo, read_info, write_adapter
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder, SoftTokenProjector
from recbole_hnlm.llm.hybrid.loading import add_lora, load_base, on_this_machine, prepare_training
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder, PromptTemplate, read_template
from recbole_hnlm.llm.hybrid.report import AdapterReport
from recbole_hnlm.llm.hybrid.run import (
    by_the_first,
    checkpoints,
    own_randomness,
    recorded,
    run_tuning,
    split_sources,
    tuning_fingerprint,
)
from recbole_hnlm.options.hybrid import BaseSettings, FineTuneSettings, refuse_float16

logger = logging.getLogger(__name__)


def fine_tune(
    sources: PairTexts | Sequence[PairTexts],
    base: BaseSettings,
    settings: FineTuneSettings,
    output: str | Path,
    template: PromptTemplate | None = None,
) -> AdapterReport:
    """Tune LoRA matrices and soft-token projectors, so that a pair's prompt lands near its hard negative's text.

    Pairs of several datasets share the LoRA matrices; each dataset has a projector of its own, since embeddings of
    different recommenders have nothing in common, and a step takes pairs of one dataset. A run that was killed goes on
    from its last checkpoint; one that is done is not repeated. In a group
    that ``torchrun`` started one process tunes and the others wait.

    Args:
        sources: Training pairs of one dataset or several, of different names.
        base: The base model.
        settings: Of the tuning.
        output: Folder of the adapter; its checkpoints lie beside it until it is done.
        template: The prompt; the package's by default.

    Returns:
        What came out, with retrieval accuracy before and after.

    Raises:
        ValueError: If the settings or pairs do not allow it.
    """
    every = [sources] if isinstance(sources, PairTexts) else list(sources)
    _check(every, base, settings)
    base = on_this_machine(base)
    wording, folder = template or read_template(), Path(output)
    return by_the_first(folder, lambda: _fine_tune(every, base, settings, folder, wording))


def _fine_tune(
    every: list[PairTexts], base: BaseSettings, settings: FineTuneSettings, output: Path, template: PromptTemplate
) -> AdapterReport:
    started = time.perf_counter()
    mark = tuning_fingerprint(every, base, settings, template)
    if (output / INFO_FILE).is_file() and (found := read_info(output)).fingerprint == mark:
        logger.info("%s is tuned already", output)
        return recorded(output, found)
    loaded = load_base(base)
    split = split_sources(every, settings)
    builders = [PromptBuilder(pairs, template, loaded.tokens, loaded.lengths) for pairs in every]
    folder = checkpoints(output) / mark[:16] if settings.epochs else None
    with own_randomness(settings.seed):
        prepare_training(loaded.model, base.precision)
        equip(loaded.model, every, settings)
        report = run_tuning(loaded.model, builders, split, settings, folder)
    report = replace(report, directory=output, seconds=time.perf_counter() - started)
    info = AdapterInfo(
        base=base.base,
        revision=loaded.revision,
        model_width=loaded.model.width,
        prompt_version=template.version,
        prompt_text=template.text,
        lengths=loaded.lengths,
        projectors={pairs.name: (pairs.width, settings.projector_width) for pairs in every},
        lora=settings.lora_rank > 0,
        sources={pairs.name: pairs.sources() for pairs in every},
        fingerprint=mark,
        settings=asdict(settings),
        figures={key: value for key, value in asdict(report).items() if key != "directory"},
    )
    write_adapter(loaded.model, info, output)
    shutil.rmtree(checkpoints(output), ignore_errors=True)
    logger.info("fine-tuned %s\n%s", output, report.table())
    return report


def _check(sources: Sequence[PairTexts], base: BaseSettings, settings: FineTuneSettings) -> None:
    names = [pairs.name for pairs in sources]
    if not names or len(set(names)) < len(names):
        raise ValueError(f"fine-tuning got the datasets {names}; give at least one, each with a name of its own")
    if settings.epochs:
        refuse_float16(base)


def equip(model: HybridEncoder, sources: Sequence[PairTexts], settings: FineTuneSettings) -> None:
    """Give a bare base model what is to be trained: LoRA matrices, and a projector for each dataset."""
    if settings.gradient_checkpointing:
        model.base.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    words = model.words.detach()
    if settings.lora_rank:
        add_lora(model, settings)
    for pairs in sources:
        projector = SoftTokenProjector(pairs.width, settings.projector_width, model.width)
        projector.start(pairs, words.cpu())
        model.add_projector(pairs.name, projector)
