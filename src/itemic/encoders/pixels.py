"""Images as arrays of one size, as the `preprocessor_config.json` of a model says: by Pillow and NumPy alone."""

import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8

from itemic.errors import ConfigError

BICUBIC, BILINEAR = 3, 2
"""Pillow's numbers of them, which the files use."""
OPENAI = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    "size": {"shortest_edge": 224}, "do_center_crop": True, "crop_size": 224, "resample": BICUBIC,
}  # fmt: skip
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "size": {"height": 224, "width": 224}}
IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
KINDS: dict[str, dict[str, Any]] = {
    "CLIP": OPENAI,
    "Bit": OPENAI,
    "Siglip": HALF | {"resample": BICUBIC},
    "ViT": HALF | {"resample": BILINEAR, "square": True},
    "DINOv3ViT": HALF | IMAGENET | {"resample": BILINEAR, "rescale_first": True, "square": True},
}
"""The processors of transformers that are known here, and what they do where a file is silent."""


class Manner(NamedTuple):
    """How an image is made ready for a model."""

    size: tuple[int, int] | int | None
    """Height and width, or the length of the shorter side."""
    crop: tuple[int, int] | None
    resample: int
    scale: float
    """What pixels from 0 to 255 are multiplied with."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    rescale_first: bool
    """Whether that is done before their number changes, which then is not rounded to whole numbers."""

    @property
    def frame(self) -> tuple[int, int]:
        """Height and width of what comes out."""
        found = self.crop or self.size
        assert isinstance(found, tuple)
        return found

    @property
    def dtype(self) -> type:
        return np.float32 if self.rescale_first else np.uint8

    def ready(self, frames: "Frames") -> Float32[np.ndarray, "images 3 height width"]:
        """The frames on the scale that the model was trained on, colours first."""
        scale = 1.0 if self.rescale_first else self.scale
        mean, std = (np.array(part, np.float32) for part in (self.mean, self.std))
        scaled = (frames.astype(np.float32) * np.float32(scale) - mean) / std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


Frames = UInt8[np.ndarray, "images height width 3"] | Float32[np.ndarray, "images height width 3"]


def manner_of(folder: Path) -> Manner:
    """What the folder of a model says of its images.

    Raises:
        ConfigError: it says nothing, or asks for something that is not done here.
    """
    path = folder / "preprocessor_config.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"{folder} has no preprocessor_config.json. Name a model of images that was saved with it."
        ) from None
    except ValueError as error:
        raise ConfigError(f"{path} is damaged: {error}. Restore the folder of the model.") from error
    named = str(facts.get("image_processor_type") or facts.get("feature_extractor_type"))
    kind = named.removesuffix("Fast").removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in KINDS:
        raise ConfigError(f"{folder} prepares images by {named}. Use a model that does so as {', '.join(KINDS)}.")
    facts = KINDS[kind] | facts
    size = _size(facts["size"], square=facts.get("square", False)) if facts.get("do_resize", True) else None
    crop = _size(facts["crop_size"], square=True) if facts.get("do_center_crop", False) else None
    if not isinstance(crop or size, tuple) or isinstance(crop, int):
        raise ConfigError(f"{folder} makes images of many sizes: {facts['size']}, uncropped. Use a model of one size.")
    scale = facts.get("rescale_factor", 1 / 255) if facts.get("do_rescale", True) else 1.0
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if facts.get("do_normalize", True):
        (*mean,), (*std,) = facts["image_mean"], facts["image_std"]
    return Manner(size, crop, facts["resample"], scale, tuple(mean), tuple(std), facts.get("rescale_first", False))


def _size(given: Any, *, square: bool) -> tuple[int, int] | int:
    """Height and width, or the shorter side.

    Raises:
        ConfigError: neither is said.
    """
    if isinstance(given, int):
        return (given, given) if square else given
    if "height" in given and "width" in given:
        return given["height"], given["width"]
    if set(given) == {"shortest_edge"}:
        return given["shortest_edge"]
    raise ConfigError(f"images are to have the size {given}, which is not known here. Use a model of one size.")


def frame_of(data: bytes, manner: Manner) -> np.ndarray:
    """The pixels of an encoded image, in rows, of the frame's size; the first picture where there are several.

    It is turned as its camera says, and what is transparent is white.

    Raises:
        OSError: it is no image, or a damaged one; Pillow raises others for some kinds of damage.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as opened:
        image = ImageOps.exif_transpose(opened)
        if "A" in image.getbands() or image.info.get("transparency") is not None:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (255, 255, 255, 255)), image)
        image = image.convert("RGB")
    if manner.size is not None:
        width, height = image.size
        if isinstance(manner.size, int):
            short, long = manner.size, int(manner.size * max(width, height) / min(width, height))
            size = (short, long) if width <= height else (long, short)
        else:
            size = manner.size[1], manner.size[0]
        if manner.rescale_first:
            scaled = np.asarray(image, np.float32) * np.float32(manner.scale)
            channels = [Image.fromarray(channel).resize(size, manner.resample) for channel in np.moveaxis(scaled, 2, 0)]
            return _cropped(np.stack([np.asarray(channel) for channel in channels], 2), manner.crop)
        image = image.resize(size, manner.resample)
    return _cropped(np.asarray(image), manner.crop)


def _cropped(pixels: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """The middle of an image; where it is smaller it is black around."""
    if size is None:
        return pixels
    out = np.zeros((*size, 3), pixels.dtype)
    spare = [have - want for have, want in zip(pixels.shape, size)]
    source = tuple(slice(max(0, n // 2), max(0, n // 2) + want) for n, want in zip(spare, size))
    target = tuple(slice(max(0, -(n // 2)), max(0, -(n // 2)) + have) for n, have in zip(spare, pixels.shape))
    out[target] = pixels[source]
    return out
