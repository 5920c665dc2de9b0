"""What the size of the encoder is worth."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from typing import Any

from recbole_hnlm.compare.analyses.base import Analysis, Entry, defaults_of_text

_WIDTHS = (16, 32, 64, 128, 0)


class EncoderSize(Analysis):
    """hnlm with several encoders; without a choice of them, with one encoder's vectors cut to several widths.

    A language model cut to fewer layers is no smaller model that anybody has trained, so the default varies what one
    encoder is asked for and not the encoder.
    """

    title = "Encoder"
    axis = "width of the text vectors"

    def __init__(self) -> None:
        self._by_width = True

    def add_arguments(self, parser: ArgumentParser) -> None:
        """``--encoders`` or ``--widths``."""
        parser.add_argument(
            "--encoders", nargs="+", default=None, help="folders or names of sentence-transformers models"
        )
        told = "leading principal components, 0 for all (default: 16 32 64 128 0)"
        parser.add_argument("--widths", nargs="+", type=int, default=None, help=told)

    def entries(self, args: Namespace, shared: Mapping[str, Any]) -> list[Entry]:
        """A row for every encoder, or for every width of one.

        Raises:
            ValueError: If both are asked for.
        """
        text = defaults_of_text(shared)
        self._by_width = args.encoders is None
        if args.encoders is not None:
            if args.widths is not None:
                raise ValueError(
                    "--encoders and --widths are two analyses; give one, and --llm_text_width for all rows"
                )
            return [Entry(name, "", {**text, "llm_encoder": name}) for name in args.encoders]
        widths = args.widths if args.widths is not None else list(_WIDTHS)
        return [
            Entry("hnlm", f"width {width}" if width else "all", {**text, "llm_text_width": width}, width or None)
            for width in widths
        ]

    def notes(self) -> Iterator[str]:
        """What is varied."""
        if self._by_width:
            yield "One encoder, its vectors cut to their leading principal components; --encoders compares encoders."
