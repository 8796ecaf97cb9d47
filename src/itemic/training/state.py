"""Everything a run needs to go on as if nothing had happened, as tensors and plain values."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from itemic.errors import LoadError
from itemic.files import replacing

KEPT = 2
"""Checkpoints kept: the newest, and one more in case the newest is damaged."""


def flatten(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value, fit for JSON: every tensor is moved into `tensors` under its path, and a mention left in its place.

    >>> tensors = {}
    >>> flatten({"step": 3, "m": [torch.ones(2)]}, "adam", tensors)
    {'step': 3, 'm': [{'#tensor': 'adam.m.0'}]}
    """
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"#tensor": path}
    if isinstance(value, Mapping):
        pairs = {str(key): flatten(item, f"{path}.{key}", tensors) for key, item in value.items()}
        integers = bool(value) and all(isinstance(key, int) for key in value)
        return {"#integers": pairs} if integers else pairs
    if isinstance(value, list | tuple):
        return [flatten(item, f"{path}.{n}", tensors) for n, item in enumerate(value)]
    return value


def unflatten(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `flatten` took apart.

    >>> tensors = {}
    >>> unflatten(flatten({0: torch.ones(2), 1: {"b": 2}}, "x", tensors), tensors)
    {0: tensor([1., 1.]), 1: {'b': 2}}
    """
    if isinstance(value, dict) and set(value) == {"#tensor"}:
        return tensors[value["#tensor"]]
    if isinstance(value, dict) and set(value) == {"#integers"}:
        return {int(key): unflatten(item, tensors) for key, item in value["#integers"].items()}
    if isinstance(value, dict):
        return {key: unflatten(item, tensors) for key, item in value.items()}
    return [unflatten(item, tensors) for item in value] if isinstance(value, list) else value


def write_checkpoint(folder: Path, step: int, state: Mapping[str, Any]) -> Path:
    """Writes a checkpoint as `step-N` in one step and removes all but the newest two.

    Raises:
        SaveError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    facts = flatten(state, "state", tensors)
    place = folder / f"step-{step:09d}"
    if place.exists():  # a resumed run comes by again where a newer checkpoint was damaged
        shutil.rmtree(place)
    with replacing(place) as new:
        save_file(tensors, new / "tensors.safetensors")
        (new / "state.json").write_text(json.dumps(facts))
    for old in checkpoints(folder)[KEPT:]:
        shutil.rmtree(old)
    return place


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a folder, newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def remove_checkpoints(folder: Path) -> None:
    """Removes all checkpoints of a folder, and what a kill left of one that was being written."""
    for place in (*checkpoints(folder), *folder.glob(".step-*.partial")):
        shutil.rmtree(place)


def read_checkpoint(place: Path) -> dict[str, Any]:
    """The state written as this checkpoint.

    Raises:
        LoadError: it is damaged.
    """
    try:
        tensors = load_file(place / "tensors.safetensors")
        return unflatten(json.loads((place / "state.json").read_text()), tensors)
    except Exception as error:  # safetensors raises types of its own
        raise LoadError(f"{place} is damaged: {error}. Remove it to resume from the one before.") from error


def random_state() -> dict[str, Tensor]:
    """Where torch's global random numbers stand, which dropout draws from."""
    there = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), **{f"cuda{n}": state for n, state in enumerate(there)}}


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """Puts torch's global random numbers where they stood."""
    torch.set_rng_state(state["torch"])
    for n in range(torch.cuda.device_count()):
        if f"cuda{n}" in state:  # else the run was cut off where there was none
            torch.cuda.set_rng_state(state[f"cuda{n}"], n)
