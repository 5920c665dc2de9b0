"""A batch of positive pairs that tells a model which is not wrapped why it finds no negatives in it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recbole.data.interaction import Interaction


class PairBatch(Interaction):
    """RecBole's interaction without negatives and labels: the wrapped model draws the ones and gives the others.

    Args:
        interaction: Columns by name.
        lacking: Columns that RecBole's own loader would hand out beside them.
    """

    def __init__(self, interaction: dict[str, Any], lacking: Iterable[str]) -> None:
        self._lacking = frozenset(lacking)
        super().__init__({name: column for name, column in interaction.items() if name not in self._lacking})

    def __getitem__(self, index: Any) -> Any:
        """A column by name, or rows.

        Raises:
            KeyError: If a model asks for what it would draw itself if it were wrapped.
        """
        if isinstance(index, str) and index in self._lacking and index not in self.interaction:
            raise KeyError(
                f"no {index} here: under neg_sampler the loader hands out pairs and the wrapped model draws negatives; "
                "train hnlm(Model), or the class that RecBole's get_model gives after register()"
            )
        return super().__getitem__(index)

    def to(self, device: Any, selected_field: Any = None) -> PairBatch:
        """The same batch on a device."""
        return PairBatch(super().to(device, selected_field).interaction, self._lacking)
