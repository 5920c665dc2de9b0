"""What would end a cell's training, or make it something else than its row says: refused while planning."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from recbole_hnlm.artefacts.manifest import read_manifest
from recbole_hnlm.config import HNLMConfig, encoding_of
from recbole_hnlm.llm.fields import read_atomic, select_text_fields
from recbole_hnlm.llm.item_vectors import TEACHER_ENCODER
from recbole_hnlm.run_options import RunOptions
from recbole_hnlm.samplers.semantic import SemanticOptions


def check_artefact_dir(config: HNLMConfig, seeds: Sequence[int]) -> None:
    """Refuse one folder of artefacts for several training splits: they belong to one.

    Raises:
        ValueError: If the seeds split the dataset differently and the user names a folder.
    """
    run: RunOptions | None = config.run
    if run is None or run.hnlm is None or run.hnlm.artefact_dir is None or len(seeds) < 2:
        return
    if not config["benchmark_filename"] and config["eval_args"]["order"] == "RO":
        raise ValueError(
            f"hnlm_artefact_dir={run.hnlm.artefact_dir} is of one training split, and the seeds {list(seeds)} split "
            "differently; leave it out, then each split gets artefacts below --out, or ask for one seed"
        )


def check_text(config: HNLMConfig) -> None:
    """Refuse a row of text where there is none: the teacher's item embeddings would stand in for it, or nothing.

    Raises:
        ValueError: If the run reads text and neither the dataset nor artefacts that the user names have any.
    """
    run: RunOptions | None = config.run
    if run is None or not _reads_text(run) or _artefacts_have_text(config, run):
        return
    name = str(config["dataset"])
    path = Path(config["data_path"]) / f"{name}.item"
    if not path.is_file() or not _has_text(path, config, run.llm.text_fields):
        raise ValueError(
            f"the row reads text and {name} has none, {path} with a field of text is wanted; leave the row out, or add "
            "that file with a field such as title:token_seq"
        )


def _has_text(path: Path, config: HNLMConfig, fields: tuple[str, ...] | None) -> bool:
    form = str(config["ITEM_ID_FIELD"]), str(config["field_separator"]), encoding_of(config)
    named = None if fields is None else tuple(fields)
    return bool(_fields_of_text(path, path.stat().st_mtime_ns, form, named))


@functools.cache
def _fields_of_text(
    path: Path, time: int, form: tuple[str, str, str], fields: tuple[str, ...] | None
) -> tuple[str, ...]:
    """The fields that a build would tell of; the file's time is there for the cache, as all rows ask."""
    return select_text_fields(read_atomic(path, key=form[0], separator=form[1], encoding=form[2]), fields)


def _reads_text(run: RunOptions) -> bool:
    own = run.sampler_options
    return run.reads_text or (isinstance(own, SemanticOptions) and own.folder is None)


def _artefacts_have_text(config: HNLMConfig, run: RunOptions) -> bool:
    """Whether the user names artefacts that were made of text elsewhere."""
    if run.hnlm is None or run.hnlm.artefact_dir is None:
        return False
    try:
        manifest = read_manifest(run.hnlm.artefact_dir, str(config["dataset"]))
    except (OSError, ValueError):  # absent or damaged: a build begins with the dataset's text
        return False
    return manifest.provenance.encoder != TEACHER_ENCODER
