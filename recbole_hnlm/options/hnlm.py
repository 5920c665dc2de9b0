"""How text enters training: keys ``hnlm_*``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

from recbole_hnlm.options.requiring import require


class TextStart(NamedTuple):
    """How embeddings start from text: standard deviation of the entries, and hops over the training pairs."""

    scale: float
    hops: int


@dataclass(frozen=True)
class HNLMOptions:
    """Options of the wrapper: how text enters training. Keys carry the prefix ``hnlm_``."""

    PREFIX: ClassVar[str] = "hnlm_"

    preset: Literal["anchored", "frozen", "paper"] = "anchored"
    """Who trains the projector: ``anchored`` = only the alignment of positives with their own text, ``frozen`` =
    nobody, ``paper`` = ranking loss and Eq. 9 of HNLMRec, with which the projector follows the model, not the text."""
    base_sampler: str = "dns"
    """Rule that picks the catalogue negative ``e_j`` under ``neg_sampler: hnlm``; beside a comparator ``uniform``."""
    comparator: Literal["none", "rlmrec_con", "rlmrec_gen", "kar", "llmrec"] = "none"
    """Published method that runs in place of ours, on the same text vectors (``comparator.py``)."""
    user_text: Literal["items", "profiles"] | None = None
    """Text vector ``p_u`` of a user: ``items`` = mean of the user's items, ``profiles`` = the user's own profile as the
    encoder reads it. ``None`` = profiles beside a comparator, whose papers read them, else items."""
    alpha: float = 0.05
    """Share of the language model's vector in the negative, in [0, 1]; 0 leaves ``e_j`` as it is."""
    use: Literal["mix", "compete", "extra"] = "mix"
    """What the projected vector does. ``mix`` = Eq. 7 in every pair; ``compete`` = Eq. 7 only where the user scores the
    vector above ``e_j``; ``extra`` = a negative of its own beside ``e_j``, ``ln(1 + exp(s_j - s+) + alpha exp(s_hard -
    s+))``, for models with RecBole's ``BPRLoss``."""
    alpha_epochs: int = 0
    """Epochs over which ``alpha`` grows from 0 along a line; 0 = all of it from the first."""
    alignment_weight: float | None = None
    """Factor of the alignment loss, at least 0. ``None`` takes the preset's measured default."""
    hard_alignment_weight: float = 0.0
    """Factor of Eq. 9 (user closer to the positive than to the hard negative) on top of ``anchored``."""
    temperature: float = 0.2
    """Temperature of both alignment losses, above 0."""
    aligned_pairs: int = 512
    """Pairs of a batch that the alignment reads; 0 means all of them. 512 of 2048 lost nothing in a prototype."""
    scale_free: bool = True
    """Whether the alignment's pull on an embedding is proportional to its norm, as the ranking loss's is. Off, a
    cosine's gradient grows as the embedding shrinks, and a good weight at one learning rate ruins the model at
    another."""
    projector_width: int = 128
    """Hidden width of the projector MLP. 256 gave the same accuracy on amazon-office (results/) and trains slower."""
    match_norm: bool | None = None
    """Whether the projected negative is rescaled to the norm of ``e_j``; ``None`` = only in ``anchored``."""
    detach: bool | None = None
    """Whether the ranking loss sees the projected negative as a constant; ``None`` = only in ``anchored``."""
    init: Literal["text", "random"] = "text"
    """Start of the item embeddings: leading principal components of the text vectors (users: mean of their items), or
    the model's own start. Text is the default since it gave most of the gain at no cost per step (results/)."""
    init_scale: float | None = None
    """Standard deviation of the entries of a text start, above 0. ``None`` = 0.2 where the model propagates over the
    graph, which averages much of it away, else 0.02: what validation preferred at learning rates about 0.001
    (results/). A rate several times as high soon forgets a small start."""
    init_hops: int | None = None
    """How often a text start takes in what text says of items that share users, by means over the training pairs, at
    least 0. ``None`` = 0 where the model propagates over the graph, which does so itself, else 3."""
    sparing: float = 0.0
    """How much ``ranking_loss`` sampled_softmax, bsl or psl spares negatives near to the user's text, which are more
    often false ones: each counts ``exp(-sparing z)`` times, z its cosine with the user's text in the user's standard
    deviations. 0 = all alike; below 0 the near ones count more."""
    min_coverage: float = 0.5
    """Least share of training pairs that must have a vector when ``alpha`` > 0, in [0, 1]."""
    control: Literal["none", "permuted", "gaussian", "pairs_permuted", "pairs_gaussian"] = "none"
    """Honesty control: text vectors permuted over items, or replaced by Gaussian noise of the same shape. ``pairs_``
    does so to the hard-negative vectors of pairs alone and leaves the items' vectors as they are."""
    artefact_dir: str | None = None
    """Where the artefacts live; ``None`` = beside the dataset if that is writable, else
    ``hnlm_artefacts/<dataset>``."""
    rebuild: bool = False
    """Whether artefacts are made anew even where fitting ones are found."""
    log_false_negatives: bool = False
    """Whether TensorBoard gets the share of drawn negatives that are held-out positives. Only ever logged."""

    def __post_init__(self) -> None:
        require(0.0 <= self.alpha <= 1.0, f"hnlm_alpha={self.alpha} is outside [0, 1]; choose a share of the mix")
        require(self.alpha_epochs >= 0, f"hnlm_alpha_epochs={self.alpha_epochs} is negative; 0 = no growth")
        for name in ("alignment_weight", "hard_alignment_weight"):
            value = getattr(self, name)
            require(value is None or value >= 0, f"hnlm_{name}={value} is negative; 0 switches the term off")
        require(self.temperature > 0, f"hnlm_temperature={self.temperature} must be above 0, e.g. 0.2")
        require(self.aligned_pairs >= 0, f"hnlm_aligned_pairs={self.aligned_pairs} is negative; 0 means all pairs")
        require(self.projector_width > 0, f"hnlm_projector_width={self.projector_width} must be above 0, e.g. 128")
        scale = self.init_scale
        require(scale is None or scale > 0, f"hnlm_init_scale={scale} must be above 0, e.g. 0.02")
        hops = self.init_hops
        require(hops is None or hops >= 0, f"hnlm_init_hops={hops} is negative; 0 takes each item's own text alone")
        require(0 <= self.min_coverage <= 1, f"hnlm_min_coverage={self.min_coverage} is outside [0, 1]")

    @property
    def effective_alignment_weight(self) -> float:
        """The factor of the alignment loss with the preset's default filled in."""
        if self.alignment_weight is not None:
            return self.alignment_weight
        return 0.001 if self.preset == "anchored" else 0.01

    def start_of(self, propagates: bool) -> TextStart:
        """The text start with the defaults for a model that propagates, or does not, filled in."""
        default = TextStart(scale=0.2, hops=0) if propagates else TextStart(scale=0.02, hops=3)
        scale = default.scale if self.init_scale is None else self.init_scale
        return TextStart(scale, default.hops if self.init_hops is None else self.init_hops)

    @property
    def aligns(self) -> bool:
        """Whether any alignment term is in the loss."""
        return self.effective_alignment_weight > 0 or self.pair_alignment_weight > 0

    @property
    def pair_alignment_weight(self) -> float:
        """The factor of Eq. 9: the alignment of ``paper`` and ``frozen``, an addition to that of ``anchored``."""
        return self.hard_alignment_weight if self.preset == "anchored" else self.effective_alignment_weight

    @property
    def projector_untrained(self) -> bool:
        """Whether the projector stays at its random start although the preset would train it."""
        if self.preset == "anchored":
            return self.effective_alignment_weight == 0 and (self.detached or self.alpha == 0)
        return self.preset == "paper" and self.detached

    @property
    def norm_matched(self) -> bool:
        """Whether projected negatives take the norm of the catalogue negative."""
        return self.preset == "anchored" if self.match_norm is None else self.match_norm

    @property
    def detached(self) -> bool:
        """Whether projected negatives are constants to the ranking loss."""
        return self.preset == "anchored" if self.detach is None else self.detach

    @property
    def reads_text(self) -> bool:
        """Whether training needs any artefact at all."""
        return self.alpha > 0 or self.aligns or self.init != "random" or self.comparator != "none" or self.sparing != 0

    @property
    def reads_user_profiles(self) -> bool:
        """Whether a user's text vector is that of the user's profile."""
        return self.comparator != "none" if self.user_text is None else self.user_text == "profiles"

    @property
    def reads_pair_vectors(self) -> bool:
        """Whether training reads the hard-negative vector of every pair."""
        return self.comparator == "none" and (self.alpha > 0 or self.pair_alignment_weight > 0)

    @property
    def brings_extra(self) -> bool:
        """Whether every pair has a second negative, the projected vector."""
        return self.use == "extra" and self.alpha > 0

    @property
    def item_control(self) -> str:
        """The control of the items' vectors."""
        return "none" if self.control.startswith("pairs_") else self.control
