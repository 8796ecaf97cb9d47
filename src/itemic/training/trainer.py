"""The one training loop: it knows modules, batches and named loss terms, and no nouns.

A run resumes exactly. A checkpoint holds the module, the optimisers, the best weights, where the run stands, and the
random numbers as they were when the epoch began; a resumed epoch draws its batches again and skips those already done.
"""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, nn

from itemic.errors import ConfigError, LoadError, TrainingDiverged
from itemic.progress import report
from itemic.training.config import TrainingConfig
from itemic.training.state import (
    checkpoints,
    random_state,
    read_checkpoint,
    restore_random_state,
    write_checkpoint,
)

Terms = dict[str, Tensor]
"""Named parts of the loss; what is minimised is their sum."""


@dataclass(frozen=True)
class Stage:
    """One part of a training: what is drawn, what is minimised, and which submodules move."""

    name: str
    """For logs. A stage with the name of an earlier one continues its optimiser."""
    config: TrainingConfig
    batches: Callable[[Generator], Iterable[Any]]
    """The batches of one epoch; every random draw comes from the generator it is given."""
    loss: Callable[[Any], Terms]
    trains: Sequence[str] = ("",)
    """Names of the submodules that are trained, "" for all; the rest is frozen and in eval mode."""
    begin: Callable[[], None] | None = None
    """Called once before the stage's first step."""
    metric: str | None = None
    """What validation is judged by in this stage; the config's metric when not given."""


@dataclass
class Hooks:
    """What a model does beside the loss. Hooks change parameters and buffers and nothing else, so resume is exact."""

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
    step: int = 0
    """Optimiser steps of the run."""
    best: float | None = None
    best_epoch: int = 0
    bad: int = 0
    """Validations since the best one."""
    epochs_run: int = 0
    """Epochs of all stages that are over."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """Every validation: stage, epoch, step, metrics."""


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
        fingerprint: str = "",
    ) -> None:
        """`fingerprint` says what is trained on what; a checkpoint with another one is refused."""
        self.module, self.stages, self.hooks = module, list(stages), hooks or Hooks()
        self.folder, self.fingerprint = folder, fingerprint
        self.rng = Generator().manual_seed(seed)
        self.at = Progress()
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self._epoch_rng = self.rng.get_state()
        self._best: dict[str, Tensor] = {}
        self._saved = time.monotonic()

    def fit(self, resume: bool = False) -> Progress:
        """Trains to the end, or on from the newest checkpoint, and leaves the best weights of each stage in the module.

        Raises:
            TrainingDiverged: a loss term is nan or infinite; the message names it, the step and the last good weights.
            LoadError: the checkpoint is of another config or another dataset.
        """
        if resume:
            self._resume()
        elif self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / "metrics.jsonl").write_text("")
        while self.at.stage < len(self.stages):
            self._run(self.stages[self.at.stage])
            self._next_stage()
        return self.at

    def _run(self, stage: Stage) -> None:
        self._freeze(stage)
        fresh = self.at.epoch == 0 and self.at.batch == 0
        if fresh and stage.begin is not None:
            stage.begin()
        optimizer = self._optimizer(stage)
        while self.at.epoch < stage.config.epochs:
            if self.at.batch == 0:
                self._epoch_rng = self.rng.get_state()
                self.hooks.on_epoch(self.at.epoch)
            terms = self._epoch(stage, optimizer)
            self.at.epoch, self.at.batch, self.at.epochs_run = self.at.epoch + 1, 0, self.at.epochs_run + 1
            self._epoch_rng = self.rng.get_state()
            if self._validated(stage, terms):
                break

    def _epoch(self, stage: Stage, optimizer: torch.optim.Optimizer) -> dict[str, float]:
        """One epoch, or what is left of it: the mean of every loss term."""
        config, done = stage.config, self.at.batch
        totals: dict[str, Tensor] = {}
        n = 0
        self.rng.set_state(self._epoch_rng)
        batches = iter(stage.batches(self.rng))
        for _ in range(done):
            next(batches)
        for group in _grouped(batches, config.accumulate):
            for parameters in optimizer.param_groups:
                parameters["lr"] = config.lr * self._scale(config)
            optimizer.zero_grad(set_to_none=True)
            for batch in group:
                with _autocast(config):
                    terms = stage.loss(batch)
                self._check_finite(stage, terms)
                loss = torch.stack([term.float() for term in terms.values()]).sum() / len(group)
                loss.backward()
                for name, term in terms.items():
                    totals[name] = totals.get(name, torch.zeros(())) + term.detach().float()
                n += 1
            if config.clip is not None:
                nn.utils.clip_grad_norm_(self._parameters(stage), config.clip)
            optimizer.step()
            self.at.step += 1
            self.at.batch += len(group)
            self.hooks.on_step(self.at.step)
            self._checkpoint_when_due(config)
        return {name: float(total) / max(n, 1) for name, total in totals.items()}

    def _validated(self, stage: Stage, terms: dict[str, float]) -> bool:
        """Logs the epoch, validates where it is due, keeps the best weights; True when it is time to stop."""
        config, metric = stage.config, stage.metric or stage.config.metric
        last = self.at.epoch >= config.epochs
        due = self.hooks.validate is not None and (self.at.epoch % config.eval_every == 0 or last)
        line: dict[str, Any] = {"stage": stage.name, "epoch": self.at.epoch, "step": self.at.step, **terms}
        if due and self.hooks.validate is not None:
            self.module.eval()
            with torch.no_grad():
                metrics = self.hooks.validate()
            self._freeze(stage)
            if metric not in metrics:
                raise ConfigError(f"validation gives {', '.join(metrics)}, not '{metric}'. Set training.metric to one.")
            line |= metrics
            self.at.history.append({k: line[k] for k in ("stage", "epoch", "step")} | metrics)
            if self.at.best is None or metrics[metric] > self.at.best:
                self.at.best, self.at.best_epoch, self.at.bad = metrics[metric], self.at.epoch, 0
                self._best = {name: value.detach().clone() for name, value in self.module.state_dict().items()}
            else:
                self.at.bad += 1
        self._log(line)
        report(stage.name, self.at.epoch, config.epochs, self._note(line, metric))
        return due and config.patience is not None and self.at.bad >= config.patience

    def _note(self, line: Mapping[str, Any], metric: str) -> str:
        shown = [f"{k} {v:.4g}" for k, v in line.items() if isinstance(v, float) and (k == metric or "@" not in k)]
        best = [f"(best {self.at.best:.4f}, epoch {self.at.best_epoch})"] if self.at.best is not None else []
        return "  ".join(shown + best)

    def _next_stage(self) -> None:
        if self._best:
            self.module.load_state_dict(self._best)
        self._best = {}
        self.at.stage, self.at.epoch, self.at.batch = self.at.stage + 1, 0, 0
        if self.at.stage < len(self.stages):
            self.at.best, self.at.best_epoch, self.at.bad = None, 0, 0

    def _freeze(self, stage: Stage) -> None:
        moving = {id(p) for p in self._parameters(stage)}
        for parameter in self.module.parameters():
            parameter.requires_grad_(id(parameter) in moving)
        self.module.eval()
        for name in stage.trains:
            self.module.get_submodule(name).train()

    def _parameters(self, stage: Stage) -> list[nn.Parameter]:
        found = {id(p): p for name in stage.trains for p in self.module.get_submodule(name).parameters()}
        return list(found.values())

    def _optimizer(self, stage: Stage) -> torch.optim.Optimizer:
        if stage.name not in self.optimizers:
            config = stage.config
            kinds = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
            options: dict[str, Any] = {"lr": config.lr, "weight_decay": config.weight_decay}
            if config.optimizer != "sgd":
                options["fused"] = True
            self.optimizers[stage.name] = kinds[config.optimizer](self._parameters(stage), **options)
        return self.optimizers[stage.name]

    def _scale(self, config: TrainingConfig) -> float:
        """The share of the peak step size at this point of the stage."""
        if config.warmup and self.at.step < config.warmup:
            return (self.at.step + 1) / config.warmup
        if config.schedule == "constant":
            return 1.0
        done = min(1.0, self.at.epoch / config.epochs)
        return 1 - done if config.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2

    def _check_finite(self, stage: Stage, terms: Terms) -> None:
        for name, term in terms.items():
            if not torch.isfinite(term).all():
                saved = next(checkpoints(self.folder), None) if self.folder is not None else None
                good = f"Last good weights: {saved}" if saved else "No checkpoint was written"
                raise TrainingDiverged(
                    f"loss term '{name}' is {term.item()} at step {self.at.step:,} (epoch {self.at.epoch + 1}; "
                    f"lr {stage.config.lr:g}). {good}. Lower the learning rate."
                )

    def _log(self, line: Mapping[str, Any]) -> None:
        if self.folder is not None:
            with (self.folder / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def _checkpoint_when_due(self, config: TrainingConfig) -> None:
        if self.folder is None:
            return
        by_step = config.checkpoint_steps is not None and self.at.step % config.checkpoint_steps == 0
        minutes = (time.monotonic() - self._saved) / 60
        if by_step or (config.checkpoint_minutes is not None and minutes >= config.checkpoint_minutes):
            self.checkpoint()

    def checkpoint(self) -> Path:
        """Writes where the run stands."""
        assert self.folder is not None
        self._saved = time.monotonic()
        return write_checkpoint(self.folder, self.at.step, self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "at": vars(self.at),
            "module": self.module.state_dict(),
            "best": self._best,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "epoch_rng": self._epoch_rng,
            "random": random_state(),
        }

    def _resume(self) -> None:
        assert self.folder is not None
        place = next(checkpoints(self.folder), None)
        if place is None:
            raise LoadError(f"{self.folder} holds no checkpoint to resume from. Start without --resume.")
        state = read_checkpoint(place)
        if state["fingerprint"] != self.fingerprint:
            raise LoadError(f"{place} was trained with another config or on another dataset. Start without --resume.")
        self.at = Progress(**state["at"])
        self.module.load_state_dict(state["module"])
        self._best = state["best"]
        named = {stage.name: stage for stage in self.stages}
        for name, optimizer in state["optimizers"].items():
            self._optimizer(named[name]).load_state_dict(optimizer)
        self._epoch_rng = state["epoch_rng"]
        restore_random_state(state["random"])
        self._rewind_log()

    def _rewind_log(self) -> None:
        """Drops the lines of epochs that will be run again."""
        assert self.folder is not None
        path = self.folder / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if json.loads(line)["step"] <= self.at.step]
        path.write_text("".join(line + "\n" for line in kept))


def shuffled(n: int, size: int, rng: Generator) -> Iterator[Tensor]:
    """The numbers 0 to n - 1 in random order, `size` at a time; the last batch may be shorter.

    >>> batches = list(shuffled(5, 2, torch.Generator().manual_seed(0)))
    >>> [len(batch) for batch in batches], sorted(torch.cat(batches).tolist())
    ([2, 2, 1], [0, 1, 2, 3, 4])
    """
    yield from torch.randperm(n, generator=rng).split(size)


def _grouped(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _autocast(config: TrainingConfig) -> Any:
    return torch.autocast("cpu", torch.bfloat16) if config.precision == "bfloat16" else nullcontext()
