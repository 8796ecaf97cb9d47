"""How good a model is, how sure that is, and beside whom."""

from itemic.evaluation.compare import Comparison, compare
from itemic.evaluation.protocols import DEFAULT_METRICS, Result, evaluate
from itemic.evaluation.reproduce import reproduce, reproduce_list
from itemic.evaluation.tune import Tuning, tune

__all__ = [
    "DEFAULT_METRICS",
    "Comparison",
    "Result",
    "Tuning",
    "compare",
    "evaluate",
    "reproduce",
    "reproduce_list",
    "tune",
]
