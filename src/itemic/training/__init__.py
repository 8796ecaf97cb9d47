"""Training: one loop, stages, samplers; knows modules, no nouns. `TrainingConfig` loads no torch."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from itemic.training.config import TrainingConfig

if TYPE_CHECKING:
    from itemic.training.negatives import Negatives
    from itemic.training.processes import gathered, together
    from itemic.training.trainer import Hooks, Stage, Trainer, autocast, shuffled

__all__ = ["Hooks", "Negatives", "Stage", "Trainer", "TrainingConfig", "autocast", "gathered", "shuffled", "together"]
MODULES = {"Negatives": "negatives", "gathered": "processes", "together": "processes"}
MODULES |= dict.fromkeys(("Hooks", "Stage", "Trainer", "autocast", "shuffled"), "trainer")
"""Where the parts are that need torch."""


def __getattr__(name: str) -> Any:
    """A part that needs torch, imported when first used."""
    if name in MODULES:
        return getattr(import_module(f"itemic.training.{MODULES[name]}"), name)
    raise AttributeError(f"module 'itemic.training' has no attribute {name!r}")
