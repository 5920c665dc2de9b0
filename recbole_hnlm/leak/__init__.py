"""A leak check for any method: does training, or what evaluation masks, depend on held-out data?"""

from recbole_hnlm.leak.check import LeakCheck, check_leak
from recbole_hnlm.leak.method import Trained, TrainFunction, train_as_configured
from recbole_hnlm.leak.report import Finding, LeakReport

__all__ = ["Finding", "LeakCheck", "LeakReport", "TrainFunction", "Trained", "check_leak", "train_as_configured"]
