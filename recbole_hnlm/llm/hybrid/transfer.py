"""An adapter that was tuned on one dataset, used on another: only the soft-token projector is made anew.

This is what HNLMRec's authors promise of their fine-tuned model on unseen datasets. The LoRA matrices stay as they are.
"""

from __future__ import annotations

import logging
import shutil
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import torch

from recbole_hnlm.llm.hybrid.adapter import (
    INFO_FILE,
    AdapterInfo,
    check_pairs_tuned_on,
    load_adapter,
    read_info,
    write_adapter,
)
from recbole_hnlm.llm.hybrid.encoder import HybridEncoder, SoftTokenProjector
from recbole_hnlm.llm.hybrid.loading import on_this_machine, prepare_training
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import PromptBuilder
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
Method = Literal["refit", "mean"]


def transfer(
    pairs: PairTexts,
    adapter: str | Path,
    base: BaseSettings,
    settings: FineTuneSettings,
    output: str | Path,
    method: Method = "refit",
) -> AdapterReport:
    """Fit an adapter's soft tokens to another dataset, and write it with them to ``output``.

    Args:
        pairs: Training pairs of the new dataset; embeddings of any width.
        adapter: Folder of the adapter, which is only read.
        base: The base model that it was tuned on.
        settings: Of a short tuning of the projector; LoRA's settings and rate do not matter.
        output: Folder of the new adapter.
        method: ``refit`` tunes a new projector with LoRA frozen. ``mean`` tunes nothing: every soft token becomes the
            mean of those that the adapter saw, so that its prompts read as before but say nothing of the embeddings.

    Returns:
        What came out; ``untuned`` is the adapter with a projector of random weights (``refit``).

    Raises:
        ValueError: If the adapter was tuned on another base model or has soft tokens for this dataset already.
    """
    if method not in ("refit", "mean"):
        raise ValueError(f"llm_transfer={method!r} is unknown; use 'refit' or 'mean'")
    if method == "refit" and settings.epochs:
        refuse_float16(base)
    base = on_this_machine(base)
    folders = Path(adapter), Path(output)
    return by_the_first(folders[1], lambda: _transfer(pairs, folders, base, settings, method))


def _transfer(
    pairs: PairTexts, folders: tuple[Path, Path], base: BaseSettings, settings: FineTuneSettings, method: Method
) -> AdapterReport:
    started = time.perf_counter()
    adapter, output = folders
    old = read_info(adapter)
    if pairs.name in old.projectors:
        raise ValueError(f"{adapter} was tuned on {pairs.name} and needs no transfer; generate with it as it is")
    if pairs.name in old.sources:  # by way of another dataset
        check_pairs_tuned_on(pairs, old, adapter)
    mark = tuning_fingerprint([pairs], base, settings, old.template, f"{method} {old.fingerprint}")
    if (output / INFO_FILE).is_file() and (found := read_info(output)).fingerprint == mark:
        logger.info("%s is there already", output)
        return recorded(output, found)
    loaded, _ = load_adapter(adapter, base)
    split = split_sources([pairs], settings)
    builder = PromptBuilder(pairs, old.template, loaded.tokens, loaded.lengths)
    with own_randomness(settings.seed):
        prepare_training(loaded.model, base.precision)
        _replace_projectors(loaded.model, pairs, settings.projector_width, method)
        tunes = method == "refit" and settings.epochs > 0
        folder = checkpoints(output) / mark[:16] if tunes else None
        report = run_tuning(loaded.model, [builder], split, settings, folder)
    report = replace(report, directory=output, seconds=time.perf_counter() - started)
    info: AdapterInfo = replace(
        old,
        projectors={pairs.name: (pairs.width, settings.projector_width)},
        sources={**old.sources, pairs.name: pairs.sources()},
        fingerprint=mark,
        settings={**asdict(settings), "transferred_from": old.fingerprint, "method": method},
        figures={key: value for key, value in asdict(report).items() if key != "directory"},
    )
    write_adapter(loaded.model, info, output)
    shutil.rmtree(checkpoints(output), ignore_errors=True)
    logger.info("transferred %s to %s\n%s", adapter, pairs.name, report.table())
    return report


@torch.no_grad()
def _replace_projectors(model: HybridEncoder, pairs: PairTexts, hidden: int, method: Method) -> None:
    """Put one projector in place of the adapter's: random weights about their mean soft token, or that mean alone."""
    mean = torch.stack([model.projector(name).mean for name in model.soft_tokens]).mean(dim=0).cpu()  # (2, S)
    projector = SoftTokenProjector(pairs.width, hidden, model.width)
    projector.start(pairs, model.words.detach().cpu())
    projector.out.bias.copy_(mean.mean(dim=0))
    projector.mean.copy_(mean)
    projector.constant.fill_(method == "mean")
    model.soft_tokens = torch.nn.ModuleDict()
    model.add_projector(pairs.name, projector)
