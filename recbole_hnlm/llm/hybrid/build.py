"""The artefacts of a dataset by hybrid prompts: adapter tuned or found, a vector for every pair, one space for all.

Legend: P training pairs, n items, S width of the language model, W width of the artefacts' vectors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_hnlm.artefacts.atomic import AtomicTable
from recbole_hnlm.artefacts.manifest import Manifest, Provenance
from recbole_hnlm.artefacts.matrix_text import StoredRows
from recbole_hnlm.artefacts.neg_text import remove_neg_text
from recbole_hnlm.artefacts.pairs import Tokens, ranks_in
from recbole_hnlm.artefacts.writer import ArtefactContents, write_artefact
from recbole_hnlm.llm.build import BuildTexts, profile_settings, read_texts
from recbole_hnlm.llm.fields import select_text_fields
from recbole_hnlm.llm.hybrid.adapter import check_tuned_on, read_info
from recbole_hnlm.llm.hybrid.generation import encode_items, generate
from recbole_hnlm.llm.hybrid.grounded import write_grounded
from recbole_hnlm.llm.hybrid.loading import check_base, check_wording, locate, on_this_machine
from recbole_hnlm.llm.hybrid.pairs import PairTexts
from recbole_hnlm.llm.hybrid.prompts import read_template
from recbole_hnlm.llm.hybrid.run import tuning_fingerprint
from recbole_hnlm.llm.hybrid.transfer import transfer
from recbole_hnlm.llm.hybrid.tuning import fine_tune
from recbole_hnlm.llm.profiles import TEMPLATE_VERSION
from recbole_hnlm.llm.report import Stages
from recbole_hnlm.llm.request import BuildRequest
from recbole_hnlm.llm.sharding import is_first
from recbole_hnlm.llm.text_space import TextSpace
from recbole_hnlm.options import LLMOptions
from recbole_hnlm.options.hybrid import HybridRun

_BLOCK = 8192
POOLING = "hybrid prompt"


@dataclass(frozen=True)
class TeacherTables:
    """The teacher's embeddings by token.

    Attributes:
        users: All users the dataset knows, shape ``(n_users,)``.
        user_vectors: Their embeddings, shape ``(n_users, D)``.
        items: All items, shape ``(n,)``.
        item_vectors: Their embeddings, shape ``(n, D)``.
    """

    users: Tokens
    user_vectors: NDArray[np.float32]
    items: Tokens
    item_vectors: NDArray[np.float32]


def check_sources(name: str, items: AtomicTable | None, options: LLMOptions, hybrid: HybridRun) -> None:
    """Refuse what is bound to fail, before a teacher is trained for it.

    Raises:
        ValueError: If the dataset has no text, or the base model cannot read the prompts.
        FileNotFoundError: If there is no such base model.
        ImportError: If a package is not installed.
    """
    if items is None or not select_text_fields(items, options.text_fields):
        raise ValueError(
            f"llm_negatives=hybrid needs text to tell the model, {name!r} has none; add an .item file with a title, or "
            "use llm_negatives=teacher"
        )
    if "." in name:
        raise ValueError(f"dataset name {name!r} names parts of a model's weights; rename it without a dot")
    if hybrid.options.adapter is None:
        check_base(hybrid.base)
        check_wording(hybrid.base, read_template(hybrid.options.prompt))
        return
    info = read_info(hybrid.options.adapter)
    check_base(replace(hybrid.base, prompt_tokens=info.lengths[0], label_tokens=info.lengths[1]))
    revision = locate(hybrid.base.base)[1]
    if revision and revision != info.revision:
        raise ValueError(
            f"llm_adapter={hybrid.options.adapter} was tuned on {info.base} ({info.revision}), llm_base is "
            f"{hybrid.base.base} ({revision}); use the same base model"
        )


def build_by_hybrid(
    request: BuildRequest,
    tables: TeacherTables,
    hybrid: HybridRun,
    settings: Mapping[str, Any],
    stages: Stages,
    others: Sequence[PairTexts] = (),
) -> Manifest | None:
    """Tune or find the adapter, make the vector of every pair, and write the artefacts.

    What is there already, of an earlier build or of one that was killed, is not made again. In a group that
    ``torchrun`` started one process tunes, all make vectors, and one writes.

    Args:
        request: Texts, pairs and the teacher's hard negatives.
        tables: The teacher's embeddings.
        hybrid: How to tune and ask.
        settings: What of the run's options decides the vectors, ``hybrid``, and the profiles where a chat model has
            written them, ``chat``; for the manifest.
        stages: Takes the time of each part.
        others: Pairs of other datasets to tune on as well.

    Returns:
        The manifest; None in processes that do not write.

    Raises:
        ValueError: If an adapter does not fit.
    """
    texts = read_texts(request)
    pairs, folder = pair_texts(request.dataset, texts, tables), Path(request.cache_dir) / "hybrid"
    base = on_this_machine(replace(hybrid.base, device=request.device))
    with stages.stage("fine-tuning"):
        adapter = find_adapter(pairs, hybrid, folder, request, others)
    generation = replace(hybrid.generate, show_progress=request.show_progress)
    with stages.stage("vectors of pairs"):
        generated = generate(pairs, adapter, base, generation, folder)
    if not is_first():
        return None
    with stages.stage("vectors of items"):
        raw = encode_items(pairs, adapter, base, generation)
    vectors = np.load(generated.path, mmap_mode="r", allow_pickle=False)
    with stages.stage("writing"):
        provenance = _provenance(request, texts, adapter, settings)
        return _write(request, texts, (vectors, raw), provenance, hybrid.options.grounded_items)


def _write(
    request: BuildRequest,
    texts: BuildTexts,
    vectors: tuple[NDArray[np.float16], NDArray[np.float32]],
    provenance: Provenance,
    grounded: int,
) -> Manifest:
    """Put the ``vectors`` of pairs, ``(P, S)``, and of items, ``(n, S)``, into the items' space, and write all."""
    of_pairs, of_items = vectors
    told = np.array([bool(text) for text in texts.items])
    space = TextSpace.of(of_items, told, request.options.text_width)
    items = space.project(of_items, told)
    if grounded:
        projected = space.project(of_pairs)
        about = {"model": provenance.encoder, "model_revision": provenance.encoder_revision, **provenance.settings}
        write_grounded((request.output_dir, request.dataset), texts, projected, items, grounded, about)
    else:
        remove_neg_text(request.output_dir, request.dataset)
    with tempfile.TemporaryFile(dir=request.cache_dir) as file:
        _project(of_pairs, space, file)
        contents = _contents(texts, StoredRows(file, (len(of_pairs), space.width)), items)
        limit = request.text_rows_limit
        return write_artefact(request.output_dir, request.dataset, contents, provenance, text_rows_limit=limit)


def _provenance(request: BuildRequest, texts: BuildTexts, adapter: Path, settings: Mapping[str, Any]) -> Provenance:
    info, options = read_info(adapter), request.options
    made_by = {"text_width": options.text_width, "sources": texts.sources, **settings}
    return Provenance(
        encoder=info.base,
        encoder_revision=info.revision,
        pooling=POOLING,
        template=f"{TEMPLATE_VERSION if request.profiles is None else 'chat'} {info.prompt_version}",
        item_fields=texts.item_fields,
        user_fields=texts.user_fields,
        teacher=dict(request.teacher),
        settings={**profile_settings(options), **made_by},
    )


def pair_texts(name: str, texts: BuildTexts, tables: TeacherTables) -> PairTexts:
    """The training pairs by rank, with their texts and the teacher's embeddings."""
    ranked = texts.pairs
    return PairTexts(
        name=name,
        user_of_pair=ranked.user_ranks,
        item_of_pair=ranked.item_ranks,
        hard_item_of_pair=ranked.negatives[:, 0],
        user_profiles=texts.users,
        item_profiles=texts.items,
        user_vectors=_by_rank(tables.users, tables.user_vectors, ranked.users),
        item_vectors=_by_rank(tables.items, tables.item_vectors, ranked.items),
    )


def find_adapter(
    pairs: PairTexts, hybrid: HybridRun, folder: Path, request: BuildRequest, others: Sequence[PairTexts] = ()
) -> Path:
    """The adapter that the options name, transferred if it is another dataset's, or one that is tuned now."""
    base = on_this_machine(replace(hybrid.base, device=request.device))
    tune = replace(hybrid.tune, show_progress=request.show_progress)
    given = hybrid.options.adapter
    if given is None:
        sources = sorted([pairs, *others], key=lambda source: source.name)  # each of them finds the same adapter
        template = read_template(hybrid.options.prompt)
        mark = tuning_fingerprint(sources, base, tune, template)
        output = folder / f"adapter-{'+'.join(source.name for source in sources)}-{mark[:16]}"
        fine_tune(sources, base, tune, output, template)
        return output
    found = read_info(given)
    if pairs.name in found.projectors:
        check_tuned_on(pairs, found, given)
        return Path(given)
    mark = tuning_fingerprint([pairs], base, tune, found.template, f"{hybrid.options.transfer} {found.fingerprint}")
    output = folder / f"transferred-{pairs.name}-{mark[:16]}"
    transfer(pairs, given, base, tune, output, hybrid.options.transfer)
    return output


def _by_rank(tokens: Tokens, vectors: NDArray[np.float32], ranked: list[str]) -> NDArray[np.float32]:
    """Rows of ``vectors``, which belong to ``tokens``, in the order of ``ranked``."""
    ranks = ranks_in(tokens, ranked)
    known = ranks >= 0
    result = np.zeros((len(ranked), vectors.shape[1]), dtype=np.float32)
    result[ranks[known]] = vectors[known]
    return result


def _project(vectors: NDArray[np.float16], space: TextSpace, file: Any) -> None:
    """Write the vectors of pairs, put into the catalogue's space, in half precision."""
    for start in range(0, len(vectors), _BLOCK):
        block = space.project(vectors[start : start + _BLOCK])
        file.write(block.astype("<f2").tobytes())
    file.flush()


def _contents(texts: BuildTexts, vectors: StoredRows, items: NDArray[np.float32]) -> ArtefactContents:
    pairs = texts.pairs
    count = len(pairs.user_ranks)
    return ArtefactContents(
        user_tokens=pairs.users,
        item_tokens=pairs.items,
        pair_users=pairs.user_ranks,
        pair_items=pairs.item_ranks,
        neg_rows=np.arange(count)[:, None],
        neg_ids=[f"pair:{number}" for number in range(count)],
        neg_vectors=vectors,
        item_vectors=items.astype(np.float16),
        item_profiles=texts.items,
        user_profiles=texts.users,
        pairs=count,
        pairs_hash=pairs.digest,
    )
