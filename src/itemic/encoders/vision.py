"""Vision models of transformers, read from their folders: frames to vectors; no code of a folder is run."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError

from itemic import threads
from itemic.devices import checked
from itemic.encoders.pixels import Frames, Manner
from itemic.encoders.pretrained import SAFE
from itemic.errors import ConfigError, some
from itemic.nn.products import fast_products

KINDS: dict[str, tuple[str, dict[str, Any], str]] = {
    "clip": ("CLIPVisionModelWithProjection", {}, "image_embeds"),
    "siglip": ("SiglipVisionModel", {}, "pooler_output"),
    "dinov2": ("Dinov2Model", {}, "first"),
    "dinov2_with_registers": ("Dinov2WithRegistersModel", {}, "first"),
    "dinov3_vit": ("DINOv3ViTModel", {}, "first"),
    "vit": ("ViTModel", {"add_pooling_layer": False}, "first"),
}
"""By the `model_type` of a folder: the class that reads it, and which of its outputs is the vector; `first` is the
state of the first token, the summary that DINO is trained on."""
IMAGES = 8
"""Images read at a time by one thread."""


class Reader:
    """Frames to vectors, not normalised, by the model in a folder."""

    def __init__(self, folder: Path, manner: Manner, *, bfloat16: bool, device: str = "cpu") -> None:
        """Opens it, and reads a black image to see that the two fit.

        Raises:
            ConfigError: it cannot be read.
        """
        self.manner, self.bfloat16, self.device = manner, bfloat16, checked(device)
        self.network, self.output = _network(folder)
        self.network.to(self.device)
        try:
            self.dim = self.read(np.zeros((1, *manner.frame, 3), manner.dtype)).shape[1]
        except (ValueError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0].rstrip(".")
            raise ConfigError(f"{folder} cannot read images as it prepares them: {reason}. Restore it.") from error

    def read(self, frames: Frames) -> Float32[np.ndarray, "images dim"]:
        """The vector of each frame."""
        if not len(frames):
            return np.empty((0, self.dim), np.float32)
        parts = [frames[start : start + IMAGES] for start in range(0, len(frames), IMAGES)]
        with fast_products():
            return np.concatenate(threads.spread(self._vectors, parts))

    def _vectors(self, frames: Frames) -> Float32[np.ndarray, "images dim"]:
        pixels = torch.from_numpy(self.manner.ready(frames)).to(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            found = self.network(pixel_values=pixels)
            vectors = found.last_hidden_state[:, 0] if self.output == "first" else found[self.output]
            return vectors.float().numpy(force=True)


def _network(folder: Path) -> tuple[Any, str]:
    """The model in a folder, and which of its outputs is the vector."""
    path = folder / "config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}. Restore the folder of the model.") from error
    kind = str(facts.get("model_type")).removesuffix("_vision_model")
    if kind not in KINDS:
        raise ConfigError(f"{folder} is of type {kind}, no vision model known here. Use one of {', '.join(KINDS)}.")
    name, options, output = KINDS[kind]
    if kind == "clip" and "projection_dim" in facts:  # the one that counts; the vision half has another
        options = options | {"projection_dim": facts["projection_dim"]}
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            "reading images needs the package transformers. Install it: pip install 'itemic[image]'"
        ) from None
    try:
        with _quiet(transformers):
            network, found = getattr(transformers, name).from_pretrained(
                folder, dtype=torch.float32, output_loading_info=True, **SAFE, **options
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise ConfigError(f"transformers cannot read {folder}: {reason}. Name another folder.") from error
    if found["missing_keys"]:
        raise ConfigError(f"{folder} lacks the weights {some(sorted(found['missing_keys']))}. Use a whole model.")
    return network.eval(), output


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Inside, transformers tells nothing of weights that are not wanted: the text half of CLIP."""
    logging = transformers.utils.logging
    before, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        yield
    finally:
        logging.set_verbosity(before)
        if bars:
            logging.enable_progress_bar()
