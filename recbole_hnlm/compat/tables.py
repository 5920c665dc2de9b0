"""Columns of atomic files in pandas 3, where a change made to ``frame[column]`` no longer reaches the frame."""

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .registry import overlay, shim

_DATASET = "recbole.data.dataset.dataset"


def _chained_fillna_is_lost() -> bool:
    import pandas as pd

    frame = pd.DataFrame({"column": [None, 1.0]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frame["column"].fillna(0.0, inplace=True)
    return bool(frame["column"].isna().any())


@contextmanager
def _no_chained_assignment_warning() -> Iterator[None]:
    import pandas as pd

    with warnings.catch_warnings():
        errors: Any = pd.errors  # the stubs do not know this one
        warnings.simplefilter("ignore", errors.ChainedAssignmentError)
        yield


@shim(_DATASET)
def missing_sequences(module: Any) -> bool:
    """Read an empty cell of a ``token_seq`` or ``float_seq`` column as the empty sequence (pandas 3).

    ``Dataset._load_feat`` fills such cells by ``df[field].fillna("", inplace=True)``, which has no effect on ``df``
    since pandas 3, and then fails to split NaN. Here the cells are filled when the file is read. No upstream issue
    known.
    """
    if not _chained_fillna_is_lost():
        return False
    import pandas as pd

    def read_csv(*args: Any, **kwargs: Any) -> pd.DataFrame:
        frame: pd.DataFrame = pd.read_csv(*args, **kwargs)
        # The header of an atomic file still carries the types: ``genre:token_seq``.
        sequences = [column for column in frame.columns if column.endswith("_seq")]
        return frame.fillna(dict.fromkeys(sequences, ""))

    original = module.Dataset._load_feat

    @functools.wraps(original)
    def _load_feat(self: Any, filepath: str, source: Any) -> Any:
        with _no_chained_assignment_warning():
            return original(self, filepath, source)

    overlay(module, pd, "pd", read_csv=read_csv)
    module.Dataset._load_feat = _load_feat
    return True


@shim(_DATASET)
def missing_values(module: Any) -> bool:
    """Fill missing tokens by 0 and missing floats by the mean of their column (pandas 3).

    ``Dataset._fill_nan`` does so by ``feat[field].fillna(..., inplace=True)``, which has no effect on ``feat`` since
    pandas 3, so that NaN reach the model in silence. Here they are filled before it runs. No upstream issue known.
    """
    if not _chained_fillna_is_lost():
        return False
    original, feature_type = module.Dataset._fill_nan, module.FeatureType

    @functools.wraps(original)
    def _fill_nan(self: Any) -> None:
        for feat in (getattr(self, name) for name in self.feat_name_list):
            for field in feat:
                if self.field2type[field] == feature_type.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif self.field2type[field] == feature_type.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
        with _no_chained_assignment_warning():
            original(self)

    module.Dataset._fill_nan = _fill_nan
    return True


@shim(_DATASET, "recbole.data.dataset.kg_dataset")
def sequence_lengths(module: Any) -> bool:
    """Let ``series.agg(len)`` give the length of every sequence instead of that of the series (pandas 3).

    RecBole cuts the concatenated sequences of a column apart by these lengths. ``agg`` no longer tries its function
    on the elements, so ``len`` itself does, in these modules. No upstream issue known.
    """
    import pandas as pd

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # pandas 2.1 and later announce the change
        lengths = pd.Series([[0], [0, 0]]).agg(len)
    if isinstance(lengths, pd.Series):
        return False

    def len_of_each(sized: Any) -> Any:
        return sized.map(len) if isinstance(sized, pd.Series) else len(sized)

    module.len = len_of_each
    return True
