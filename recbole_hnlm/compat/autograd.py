"""What RecBole's SINE does to everybody's gradients when its module is imported."""

from collections.abc import Iterator
from contextlib import contextmanager

from .registry import surrounding


@surrounding("recbole.model.sequential_recommender.sine")
@contextmanager
def anomaly_detection_left_alone() -> Iterator[bool]:
    """Keep autograd's anomaly detection as it was.

    SINE switches it on for the whole process while it is imported, which RecBole does as soon as it looks a model up
    that is no general one, a misspelled name included. From then on every model trains several times slower, and one
    with a masked NaN in its backward pass, as DGCF, raises. The value entered tells whether it was off before, since
    nobody knows earlier what the import is going to do.
    """
    import torch  # light until SINE is wanted

    before, checked = torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()
    try:
        yield not before
    finally:
        torch.autograd.set_detect_anomaly(before, checked)
