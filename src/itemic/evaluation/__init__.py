"""How good a model is, how sure that is, and beside whom."""

from itemic.evaluation.protocols import DEFAULT_METRICS, Result, evaluate

__all__ = ["DEFAULT_METRICS", "Result", "evaluate"]
