"""The one training loop: it knows modules, batches and named loss terms, and no nouns.

A run resumes exactly. A checkpoint holds the module, the optimisers, the best weights, where the run stands, and the
random numbers as they were when the epoch began; a resumed epoch draws its batches again and skips those already done.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from itemic.devices import moved
from itemic.errors import ConfigError, DataError, LoadError, TrainingDiverged
from itemic.files import write_text
from itemic.nn.products import has_bfloat16
from itemic.progress import report
from itemic.training.adam import SGD, Adam
from itemic.training.config import TrainingConfig
from itemic.training.processes import current
from itemic.training.rowadam import RowAdam, clip
from itemic.training.stable import StableAdamW
from itemic.training.state import (
    checkpoints,
    random_state,
    read_checkpoint,
    remove_checkpoints,
    restore_random_state,
    write_checkpoint,
)

Terms = dict[str, Tensor]
"""Named parts of the loss; what is minimised is their sum."""
OPTIMIZERS = {
    "adam": Adam,
    "adamw": partial(torch.optim.AdamW, fused=True),
    "rowadam": RowAdam,
    "sgd": SGD,
    "stable_adamw": StableAdamW,
}
FALLING: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "sqrt": lambda done: 1 - math.sqrt(done),
}
"""How far above its floor the step size is when a share of the training is done."""


@dataclass(frozen=True)
class Stage:
    """One part of a training: what is drawn, what is minimised, and which submodules move."""

    name: str
    """For logs. A stage with the name of an earlier one continues its optimiser, its warmup and its schedule."""
    config: TrainingConfig
    batches: Callable[[Generator], Iterable[Any]]
    """The batches of one epoch; every random draw comes from the generator it is given. Their tensors are moved to the
    device of the module. For several processes a batch
    is a tensor, or a tuple of tensors, with a row for each example."""
    loss: Callable[[Any], Terms]
    """Means over the rows of a batch; what compares rows with each other looks at the `gathered` ones."""
    trains: Sequence[str] = ("",)
    """Names of the submodules that are trained, "" for all; the rest is frozen and in eval mode."""
    begin: Callable[[], None] | None = None
    """Called once before the stage's first step."""
    metric: str | None = None
    """What validation is judged by in this stage; the config's metric when not given."""
    continues: str | None = None
    """The name of an earlier stage whose optimiser this one goes on with, by a warmup and schedule of its own."""
    paces: Mapping[str, float] = field(default_factory=dict)
    """What the config's step size is multiplied by for some of the submodules in `trains`; 1 for the others."""


@dataclass
class Hooks:
    """What a model does beside the loss. Hooks change what is in `state_dict` and nothing else, so resume is exact."""

    on_epoch: Callable[[int], None] = lambda epoch: None
    on_step: Callable[[int], None] = lambda step: None
    validate: Callable[[], dict[str, float]] | None = None
    """Metrics of the module as it is; the trainer knows none of its own."""


@dataclass
class Progress:
    """Where a run stands; all of it is in a checkpoint."""

    stage: int = 0
    epoch: int = 0
    """Epochs of this stage that are over."""
    batch: int = 0
    """Batches of the epoch under way that are over."""
    totals: dict[str, float] = field(default_factory=dict)
    """Sum of each loss term over those batches."""
    step: int = 0
    """Optimiser steps of the run."""
    steps: dict[str, int] = field(default_factory=dict)
    """Optimiser steps by the name of the stage."""
    best: float | None = None
    best_epoch: int = 0
    bad: int = 0
    """Validations since the best one."""
    epochs_run: int = 0
    """Epochs of all stages that are over."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """A line for every epoch: stage, epoch, step, lr, loss terms, and metrics where it was validated."""


class Trainer:
    """Fits a module through its stages. Give a folder to write `metrics.jsonl` and checkpoints, and to resume from."""

    def __init__(
        self,
        module: nn.Module,
        stages: Sequence[Stage],
        hooks: Hooks | None = None,
        *,
        seed: int = 0,
        folder: Path | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        """`about` says what is trained on what, by name; a checkpoint that says otherwise is refused."""
        self.module, self.stages, self.hooks = module, list(stages), hooks or Hooks()
        self.folder, self.about = folder, dict(about or {})
        self.group = current()
        self.device = next((p.device for p in module.parameters()), torch.device("cpu"))
        self._writes = folder is not None and self.group.rank == 0
        self.rng = Generator().manual_seed(seed)
        self.at = Progress()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._trainable = {id(p) for p in module.parameters() if p.requires_grad}
        self._epoch_rng = self.rng.get_state()
        self._best: dict[str, Tensor] = {}
        self._saved = self._began = time.monotonic()
        self.seconds_before = 0.0
        """What a resumed run had taken up to its checkpoint."""
        trains: dict[str, Sequence[str]] = {}
        for stage in self.stages:
            name = stage.continues or stage.name
            if trains.setdefault(name, stage.trains) != stage.trains:
                raise ValueError(f"two stages named {name!r} share an optimiser and must train the same parts")

    def fit(self, resume: bool = False) -> Progress:
        """Trains to the end, or on from the newest checkpoint, and leaves the best weights of each stage in the module.

        Without `resume` the checkpoints of an earlier run in the folder are removed.

        Raises:
            TrainingDiverged: a loss term or a weight is nan or infinite; the message names it, the step and the last
                good weights.
            DataError: an epoch has no batch.
            LoadError: there is no checkpoint, or it is damaged, of another config or of another dataset.
        """
        if resume:
            self._resume()
        elif self.folder is not None and self._writes:
            remove_checkpoints(self.folder)
        self._write_log()
        while self.at.stage < len(self.stages):
            self._run(self.stages[self.at.stage])
            self._next_stage()
        return self.at

    def _run(self, stage: Stage) -> None:
        self._freeze(stage)
        if self.at.epoch == 0 and self.at.batch == 0 and stage.begin is not None:
            stage.begin()
        optimizer = self._optimizer(stage)
        while self.at.epoch < stage.config.epochs:
            if self.at.batch == 0:
                self._epoch_rng = self.rng.get_state()
                self.hooks.on_epoch(self.at.epoch)
            self._epoch(stage, optimizer)
            if self.at.batch == 0:
                raise DataError(f"{stage.name} has nothing to learn from: an epoch gave no batch. Add interactions.")
            self._check_weights(stage)
            if self._epoch_ends(stage, optimizer):
                break

    def _epoch(self, stage: Stage, optimizer: torch.optim.Optimizer) -> None:
        """One epoch, or what is left of it."""
        config, at = stage.config, self.at
        self.rng.set_state(self._epoch_rng)
        source = stage.batches(self.rng)
        n_batches = len(source) if isinstance(source, Sized) else None
        batches = iter(source)
        for _ in range(at.batch):
            next(batches)
        for group in _grouped(batches, config.accumulate):
            for parameters in optimizer.param_groups:
                parameters["lr"] = config.lr * parameters.get("pace", 1.0) * self._scale(stage, n_batches)
            optimizer.zero_grad(set_to_none=True)
            for batch in group:
                self._add_gradient(stage, batch, len(group))
            self.group.add_gradients(self._parameters(stage))
            if config.clip is not None:
                clip(self._parameters(stage), config.clip)
            optimizer.step()
            at.step, at.batch = at.step + 1, at.batch + len(group)
            at.steps[stage.name] = at.steps.get(stage.name, 0) + 1
            self.hooks.on_step(at.step)
            self._checkpoint_when_due(stage)

    def _add_gradient(self, stage: Stage, batch: Any, share: int) -> None:
        """Adds the gradient of the batch's loss, divided by `share`, to that of the parameters.

        In a group of processes, adding up what each has got of its rows is left to be done.
        """
        with self.group.deal(batch) as (rows, weight):
            with autocast(stage.config, self.device.type):
                terms = stage.loss(moved(rows, self.device))
            values = weight * torch.stack([term.float() for term in terms.values()])
            (values.sum() / share).backward()
        for name, value in zip(terms, self.group.add(values.detach()).tolist()):
            if not math.isfinite(value):
                raise self._diverged(stage, f"loss term '{name}' is {value} at step {self.at.step + 1:,}")
            self.at.totals[name] = self.at.totals.get(name, 0.0) + value

    def _epoch_ends(self, stage: Stage, optimizer: torch.optim.Optimizer) -> bool:
        """Logs the epoch, validates where it is due, keeps the best weights; True when it is time to stop."""
        config, at = stage.config, self.at
        means = {name: total / at.batch for name, total in at.totals.items()}
        at.epoch, at.batch, at.totals, at.epochs_run = at.epoch + 1, 0, {}, at.epochs_run + 1
        lr = optimizer.param_groups[0]["lr"] / optimizer.param_groups[0].get("pace", 1.0)
        line = {"stage": stage.name, "epoch": at.epoch, "step": at.step, "lr": lr, **means}
        due = self.hooks.validate is not None and (at.epoch % config.eval_every == 0 or at.epoch == config.epochs)
        if due:
            line |= self._validated(stage)
        at.history.append(line)
        self._write_log()
        stop = due and config.patience is not None and at.bad >= config.patience
        report(stage.name, at.epoch, at.epoch if stop else config.epochs, self._note(stage, line))
        return stop

    def _validated(self, stage: Stage) -> dict[str, float]:
        """The metrics of the module as it is; the weights are kept when none were better."""
        assert self.hooks.validate is not None
        self.module.eval()
        with torch.no_grad():
            metrics = self.group.once(self.hooks.validate)
        self._freeze(stage)
        at, metric = self.at, stage.metric or stage.config.metric
        if metric not in metrics:
            raise ConfigError(f"validation gives {', '.join(metrics)}, not '{metric}'. Set training.metric to one.")
        if at.best is None or metrics[metric] > at.best:
            at.best, at.best_epoch, at.bad = metrics[metric], at.epoch, 0
            self._best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
        else:
            at.bad += 1
        return metrics

    def _note(self, stage: Stage, line: Mapping[str, Any]) -> str:
        """What the progress bar says: the loss terms, the metric, the best one so far."""
        metric, hidden = stage.metric or stage.config.metric, {"stage", "epoch", "step", "lr"}
        shown = [f"{k} {v:.4g}" for k, v in line.items() if k not in hidden and (k == metric or "@" not in k)]
        best = [f"(best {self.at.best:.4f}, epoch {self.at.best_epoch})"] if self.at.best is not None else []
        return "  ".join(shown + best)

    def _next_stage(self) -> None:
        at = self.at
        if self._best:
            self.module.load_state_dict(self._best)
        self._best = {}
        at.stage, at.epoch, at.batch = at.stage + 1, 0, 0
        if at.stage < len(self.stages):
            at.best, at.best_epoch, at.bad = None, 0, 0

    def _freeze(self, stage: Stage) -> None:
        moving = {id(p) for p in self._parameters(stage)}
        for parameter in self.module.parameters():
            parameter.requires_grad_(id(parameter) in moving)
        self.module.eval()
        for name in stage.trains:
            self.module.get_submodule(name).train()

    def _parameters(self, stage: Stage, parts: Sequence[str] | None = None) -> list[nn.Parameter]:
        """What moves in this stage, of these submodules if given; a parameter that came frozen stays so."""
        parts = stage.trains if parts is None else parts
        found = {id(p): p for name in parts for p in self.module.get_submodule(name).parameters()}
        return [p for key, p in found.items() if key in self._trainable]

    def _optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        name = stage.continues or stage.name
        if name not in self.optimizers:
            config, groups = stage.config, []
            for pace in sorted({stage.paces.get(part, 1.0) for part in stage.trains}, reverse=True):
                parameters = self._parameters(stage, [x for x in stage.trains if stage.paces.get(x, 1.0) == pace])
                own = {"lr": config.lr * pace, "pace": pace}
                if config.optimizer.endswith("adamw"):
                    groups.append({"params": [p for p in parameters if p.ndim > 1], **own})
                    own, parameters = own | {"weight_decay": 0.0}, [p for p in parameters if p.ndim < 2]
                groups.append({"params": parameters, **own})
            options = {"lr": config.lr, "weight_decay": config.weight_decay}
            self.optimizers[name] = OPTIMIZERS[config.optimizer]([g for g in groups if g["params"]], **options)
        return self.optimizers[name]

    def _scale(self, stage: Stage, n_batches: int | None) -> float:
        """The share of the peak step size at the step about to be made."""
        config, at = stage.config, self.at
        step = at.steps.get(stage.name, 0) + 1
        if step <= config.warmup:
            return step / config.warmup
        before, total = (
            sum(s.config.epochs for s in stages if s.name == stage.name)
            for stages in (self.stages[: at.stage], self.stages)
        )
        done = (before + at.epoch + (at.batch / n_batches if n_batches else 0)) / total
        return config.floor + (1 - config.floor) * FALLING[config.schedule](done)

    def _check_weights(self, stage: Stage) -> None:
        """A finite loss can still have a gradient that is not; such weights are neither kept nor written."""
        for name, parameter in self.module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise self._diverged(stage, f"the weights '{name}' are no longer finite after step {self.at.step:,}")

    def _diverged(self, stage: Stage, what: str) -> TrainingDiverged:
        saved = checkpoints(self.folder) if self.folder is not None else []
        good = f"Last good weights: {saved[0]}." if saved else "No checkpoint was written before."
        where = f"epoch {self.at.epoch + 1}; lr {stage.config.lr:g}"
        return TrainingDiverged(f"{what} ({where}). {good} Lower the learning rate (training.lr).")

    def _write_log(self) -> None:
        if self.folder is not None and self._writes:
            write_text(self.folder / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in self.at.history))

    def _checkpoint_when_due(self, stage: Stage) -> None:
        if self.folder is None or not self._writes:
            return
        steps, minutes = stage.config.checkpoint_steps, stage.config.checkpoint_minutes
        by_step = steps is not None and self.at.step % steps == 0
        if by_step or (minutes is not None and time.monotonic() - self._saved >= 60 * minutes):
            self._check_weights(stage)
            write_checkpoint(self.folder, self.at.step, self._state())
            self._saved = time.monotonic()

    def _state(self) -> dict[str, Any]:
        return {
            "about": self.about,
            "at": asdict(self.at),
            "module": self.module.state_dict(),
            "best": self._best,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "epoch_rng": self._epoch_rng,
            "random": random_state(),
            "seconds": self.seconds_before + time.monotonic() - self._began,
        }

    def _resume(self) -> None:
        saved = checkpoints(self.folder) if self.folder is not None else []
        if not saved:
            raise LoadError(f"{self.folder} holds no checkpoint to resume from. Start without --resume.")
        state = read_checkpoint(saved[0])
        for name in {**state["about"], **self.about}:
            was, now = state["about"].get(name), self.about.get(name)
            if was != now:
                raise LoadError(
                    f"{saved[0]} was trained with another {name}: {was!r}, now {now!r}. "
                    "Go on with what it was, or start without --resume."
                )
        self.at = Progress(**state["at"])
        self.module.load_state_dict(state["module"])
        self._best = state["best"]
        named = {stage.name: stage for stage in self.stages}
        for name, optimizer in state["optimizers"].items():
            self._optimizer(named[name]).load_state_dict(optimizer)
        self._epoch_rng, self.seconds_before = state["epoch_rng"], state["seconds"]
        restore_random_state(state["random"])


def shuffled(n: int, size: int, rng: Generator) -> Sequence[Tensor]:
    """The numbers 0 to n - 1 in random order, `size` at a time; the last batch may be shorter.

    >>> batches = shuffled(5, 2, torch.Generator().manual_seed(0))
    >>> [len(batch) for batch in batches], sorted(torch.cat(list(batches)).tolist())
    ([2, 2, 1], [0, 1, 2, 3, 4])
    """
    return torch.randperm(n, generator=rng).split(size)


def _grouped(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def autocast(config: TrainingConfig, device: str = "cpu") -> AbstractContextManager[Any]:
    """Where products are made in the precision that training has; in bfloat16 only where the processor has it, as
    others take five times as long for it."""
    low = config.precision == "bfloat16" and (device != "cpu" or has_bfloat16())
    return torch.autocast(device, torch.bfloat16) if low else nullcontext()
