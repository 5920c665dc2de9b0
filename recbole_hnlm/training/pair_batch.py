"""A batch of positive pairs that tells a model which is not wrapped why it finds no negatives in it."""

from __future__ import annotations

from typing import Any

from recbole.data.interaction import Interaction


class PairBatch(Interaction):
    """RecBole's interaction without negatives or labels: the wrapped model draws the ones and gives the others."""

    _lacking = ""

    @classmethod
    def of(cls, batch: Interaction, lacking: str) -> PairBatch:
        """The batch itself as one of pairs, its columns neither checked nor copied again.

        Args:
            batch: RecBole's batch, which is not to be used any more.
            lacking: Column that RecBole's own loader would hand out beside the pairs; dropped where it is there.
        """
        pairs = cls.__new__(cls)
        pairs.__dict__.update(batch.__dict__, _lacking=lacking)
        pairs.interaction.pop(lacking, None)
        return pairs

    def __getitem__(self, index: Any) -> Any:
        """A column by name, or rows.

        Raises:
            KeyError: If a model asks for what it would draw itself if it were wrapped.
        """
        if isinstance(index, str) and index == self._lacking and index not in self.interaction:
            raise KeyError(
                f"no {index} here: under neg_sampler the loader hands out pairs and the wrapped model draws negatives; "
                "train hnlm(Model), or the class that RecBole's get_model gives after register()"
            )
        return super().__getitem__(index)

    def to(self, device: Any, selected_field: Any = None) -> PairBatch:
        """The same batch on a device."""
        return PairBatch.of(super().to(device, selected_field), self._lacking)
