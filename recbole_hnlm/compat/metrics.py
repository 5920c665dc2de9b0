"""Metrics of RecBole that its own collector stumbles over."""

import functools
from collections import Counter
from typing import Any

from .registry import shim


def _counts_cannot_be_moved(module: Any) -> bool:
    collector = module.Collector.__new__(module.Collector)
    collector.data_struct = module.DataStruct()
    collector.data_struct.set("data.count_items", Counter())
    try:
        collector.get_data_struct()
    except AttributeError:
        return True
    return False


@shim("recbole.evaluator.collector")
def counts_beside_tensors(module: Any) -> bool:
    """Let metrics be computed that read counts: AveragePopularity, GiniIndex, ItemCoverage, TailPercentage.

    ``Collector.get_data_struct`` moves all that was collected to the CPU, and neither a ``Counter`` of the items nor
    their number can be moved. They are held back while it does, and handed on as they are. No upstream issue known.
    """
    if not _counts_cannot_be_moved(module):
        return False
    original = module.Collector.get_data_struct

    @functools.wraps(original)
    def get_data_struct(self: Any) -> Any:
        held = self.data_struct._data_dict
        fixed = {key: value for key, value in held.items() if not hasattr(value, "cpu")}
        self.data_struct._data_dict = {key: value for key, value in held.items() if key not in fixed}
        try:
            told = original(self)
        finally:
            self.data_struct._data_dict.update(fixed)
        told._data_dict.update(fixed)
        return told

    module.Collector.get_data_struct = get_data_struct
    return True
