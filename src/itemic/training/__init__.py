"""Training: one loop, stages, samplers; knows modules, no nouns. `TrainingConfig` loads no torch."""

from typing import TYPE_CHECKING, Any

from itemic.training.config import TrainingConfig

if TYPE_CHECKING:
    from itemic.training.negatives import Negatives
    from itemic.training.processes import gathered, together
    from itemic.training.trainer import Hooks, Stage, Trainer, shuffled

__all__ = ["Hooks", "Negatives", "Stage", "Trainer", "TrainingConfig", "gathered", "shuffled", "together"]


def __getattr__(name: str) -> Any:
    """The parts that need torch, imported when first used."""
    if name == "Negatives":
        from itemic.training.negatives import Negatives

        return Negatives
    if name in ("gathered", "together"):
        from itemic.training import processes

        return getattr(processes, name)
    if name in ("Hooks", "Stage", "Trainer", "shuffled"):
        from itemic.training import trainer

        return getattr(trainer, name)
    raise AttributeError(f"module 'itemic.training' has no attribute {name!r}")
