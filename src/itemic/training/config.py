"""The options of training that all trained models share."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingConfig(BaseModel):
    """How a module is trained: values only, frozen, unknown names refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    lr: float = Field(default=1e-3, gt=0)
    """Step size, the peak of the schedule. Adam's own default."""
    weight_decay: float = Field(default=0.0, ge=0)
    """Pull of all weights towards 0: added to the gradient by adam and sgd, by rowadam for the rows it
    moves, taken off the weights by adamw and stable_adamw, which spare biases and norms (all that has one axis); by
    stable_adamw whole, not times the step size."""
    batch_size: int = Field(default=1024, ge=1)
    """Examples a batch, over all processes where there are several."""
    epochs: int = Field(default=100, ge=1)
    """Passes over the data, at most."""
    optimizer: Literal["adam", "adamw", "rowadam", "sgd", "stable_adamw"] = "adam"
    """Which rule turns gradients into steps. rowadam is adam for the rows of a table that a batch looks at, each with
    its own count of steps, and leaves the other rows alone: faster for large tables (bpr), at about twice the lr
    of adam. sgd moves the same rows by their gradients alone: faster still, at an lr of about the batch's size
    over a hundred for losses that are means. stable_adamw is adamw with smaller steps where a gradient is larger than
    those before it, in place of `clip`: for language models."""
    schedule: Literal["constant", "linear", "cosine", "sqrt"] = "constant"
    """How the step size falls from its peak to its `floor` at the end: step by step where a stage knows how many
    batches an epoch has, else epoch by epoch. sqrt falls fast at first, as 1 - sqrt(done) does."""
    floor: float = Field(default=0.0, ge=0, le=1)
    """The share of the peak that a falling step size ends at."""
    warmup: int = Field(default=0, ge=0)
    """Steps over which the step size rises evenly; the last of them is at the peak."""
    clip: float | None = Field(default=None, gt=0)
    """The largest norm that the gradient of all weights together may have; None leaves it alone."""
    accumulate: int = Field(default=1, ge=1)
    """Batches whose gradients are averaged into one step."""
    eval_every: int = Field(default=1, ge=1)
    """Epochs from one validation to the next."""
    patience: int | None = Field(default=None, ge=1)
    """Validations in a row without a better metric after which training ends; None goes to the last epoch."""
    metric: str = "ndcg@20"
    """What validation is judged by; the weights that were best by it are kept."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """bfloat16 runs matrix products under autocast, on a processor that has instructions for it (elsewhere they stay
    float32, which is faster there); weights, losses and optimiser state stay float32."""
    checkpoint_steps: int | None = Field(default=None, ge=1)
    """Steps from one checkpoint to the next, where checkpoints are written at all; None for none by steps."""
    checkpoint_minutes: float | None = Field(default=10.0, gt=0)
    """Minutes from one checkpoint to the next; None for none by time."""
