"""Images are prepared as transformers' own Pillow processors do and read as its own models; broken ones are told of."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from itemic.data import Dataset, Ids, Interactions, Table
from itemic.encoders import image as module
from itemic.encoders.cache import Cache
from itemic.encoders.decoder import Decoder
from itemic.encoders.image import Image
from itemic.encoders.pixels import frame_of, manner_of
from itemic.errors import ConfigError, DataError, LoadError
from itemic.model import load
from itemic.progress import listening

transformers = pytest.importorskip("transformers", reason="transformers is not installed (pip install 'itemic[dev]')")
pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed (pip install 'itemic[image]')")
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil  # noqa: E402
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil  # noqa: E402
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil  # noqa: E402
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil  # noqa: E402

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28, "patch_size": 14}
WIDE = SIZES | {"intermediate_size": 48}
SQUARE = {"height": 28, "width": 28}
CROP = {"size": {"shortest_edge": 33}, "crop_size": SQUARE}
KINDS = {
    "clip": (CLIPImageProcessorPil, CROP),
    "siglip": (SiglipImageProcessorPil, {"size": SQUARE}),
    "dinov2": (BitImageProcessorPil, CROP | {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}),
    "vit": (ViTImageProcessorPil, {"size": SQUARE, "do_convert_rgb": True}),
}


def made(kind):
    """A tiny model with random weights, and the vision half whose vectors ours are to be."""
    torch.manual_seed(0)
    if kind in ("clip", "siglip"):
        name = {"clip": "CLIP", "siglip": "Siglip"}[kind]
        words = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
        parts = {"text_config": words | {"intermediate_size": 48}, "vision_config": WIDE}
        config = getattr(transformers, f"{name}Config")(**parts, **{"projection_dim": 24} if kind == "clip" else {})
        model = getattr(transformers, f"{name}Model")(config)
    elif kind == "dinov2":
        model = transformers.Dinov2Model(transformers.Dinov2Config(**SIZES))
    else:
        model = transformers.ViTModel(transformers.ViTConfig(**WIDE), add_pooling_layer=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(Cache, "memory", {})


@pytest.fixture
def folder(tmp_path):
    def make(kind="clip", **options):
        place = tmp_path / kind
        made(kind).save_pretrained(place)
        processor, manner = KINDS[kind]
        processor(**manner | options).save_pretrained(place)
        return place

    return make


def ours(place, **options):
    return Image(**{"model": str(place), "precision": "float32", "workers": 0} | options)


def theirs(kind, images):
    """The pixels and the vectors that transformers makes of opened images."""
    processor, manner = KINDS[kind]
    pixels = processor(**manner)(images, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        if kind in ("clip", "siglip"):
            found = made(kind).get_image_features(pixel_values=pixels)
            return pixels, found if isinstance(found, torch.Tensor) else found.pooler_output
        return pixels, made(kind)(pixel_values=pixels).last_hidden_state[:, 0]


def drawn(mode, width, height, seed=0):
    """A smooth picture with edges, of any mode."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    colours = [127 + 120 * np.sin(x * rng.uniform(0.05, 0.5) + y * rng.uniform(0.05, 0.5)) for _ in range(4)]
    picture = pil.fromarray(np.stack(colours, 2).astype(np.uint8), "RGBA")
    picture.paste((200, 30, 90, 255), (width // 3, height // 4, width // 2, height // 2))
    if mode == "P with transparency":
        picture = picture.convert("RGB").quantize(16)
        picture.info["transparency"] = 3
        return picture
    return picture.quantize(32) if mode == "P" else picture.convert(mode)


def written(picture, form="PNG", **options):
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue()


MODES = ["RGB", "L", "LA", "P", "P with transparency", "RGBA", "1", "CMYK"]
EXTENTS = [(61, 37), (37, 61), (20, 30), (101, 28), (40, 41), (300, 33), (29, 90), (50, 50)]
PICTURES = [
    written(drawn(mode, width, height), "TIFF" if mode == "CMYK" else "PNG")
    for mode, (width, height) in zip(MODES, EXTENTS)
]
PICTURES.append(written(drawn("RGB", 64, 48), "JPEG", quality=70))


def opened(data):
    return pil.open(io.BytesIO(data))


def shop(images, path=None, **columns):
    items = Table.of(Ids([f"i{n}" for n in range(len(images))]), {"image": images, **columns})
    return Dataset(items, Table.numbered(0, "user"), Interactions.none(0, len(items)), path=path)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_and_vectors_equal_those_of_transformers_own_pillow_processor_and_model(folder, kind):
    place = folder(kind)
    pixels, vectors = theirs(kind, [opened(data) for data in PICTURES])
    with Decoder(manner_of(place), 0) as decoder:
        frames, whole = decoder.frames(PICTURES)
    assert whole.all()
    np.testing.assert_allclose(manner_of(place).ready(frames), pixels.numpy(), atol=1e-5)
    data = shop(PICTURES)
    found = ours(place, normalise=False).fit(data).encode(data.items)
    np.testing.assert_allclose(found, vectors.numpy(), atol=1e-4)
    unit = ours(place).fit(data).encode(data.items)
    np.testing.assert_allclose(unit, found / np.linalg.norm(found, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"crop_size": {"height": 41, "width": 27}},
        {"size": {"height": 30, "width": 20}},
        {"size": {"shortest_edge": 20}, "crop_size": {"height": 31, "width": 40}, "resample": 2},
        {"do_rescale": False, "do_center_crop": False, "size": SQUARE, "resample": 1},
        {"do_normalize": False, "rescale_factor": 1 / 127.5},
        {"do_resize": False, "crop_size": {"height": 45, "width": 35}},
    ],
)
def test_every_step_is_done_as_the_file_says_even_for_images_smaller_than_the_crop(tmp_path, options):
    processor = CLIPImageProcessorPil(**CROP | options)
    processor.save_pretrained(tmp_path)
    manner, pictures = manner_of(tmp_path), [opened(data) for data in PICTURES]
    pixels = processor(pictures, return_tensors="np")["pixel_values"]
    frames = np.stack([frame_of(data, manner) for data in PICTURES])
    np.testing.assert_allclose(manner.ready(frames), pixels, atol=1e-5)


def test_old_files_that_say_less_are_read_as_transformers_reads_them(tmp_path):
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 30, "crop_size": 28}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    processor = CLIPImageProcessorPil.from_pretrained(tmp_path)
    pixels = processor([opened(data) for data in PICTURES], return_tensors="np")["pixel_values"]
    frames = np.stack([frame_of(data, manner_of(tmp_path)) for data in PICTURES])
    np.testing.assert_allclose(manner_of(tmp_path).ready(frames), pixels, atol=1e-5)
    (tmp_path / "preprocessor_config.json").write_text('{"feature_extractor_type": "ViTFeatureExtractor", "size": 31}')
    assert manner_of(tmp_path).size == (31, 31)


def test_dinov3_rescales_before_it_resizes(tmp_path):
    facts = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 32, "width": 48}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    manner = manner_of(tmp_path)
    for data in PICTURES[:1] + PICTURES[-1:]:
        x = torch.from_numpy(np.array(opened(data).convert("RGB"))).permute(2, 0, 1)[None] / 255
        x = torch.nn.functional.interpolate(x, (32, 48), mode="bilinear", antialias=True)
        mean, std = (torch.tensor(part)[:, None, None] for part in (manner.mean, manner.std))
        np.testing.assert_allclose(manner.ready(frame_of(data, manner)[None]), (x - mean) / std, atol=1e-5)


@pytest.mark.parametrize("name", ["DINOv3ViT", "Dinov2WithRegisters", "CLIPVisionModelWithProjection"])
def test_other_forms_of_the_same_kinds_are_read_too(tmp_path, name):
    torch.manual_seed(0)
    if name.startswith("CLIP"):
        model = transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**WIDE, projection_dim=24))
    else:
        model = getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**SIZES))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.eval().save_pretrained(tmp_path)
    kind = "DINOv3ViT" if name == "DINOv3ViT" else "ViT"
    facts = {"image_processor_type": f"{kind}ImageProcessor", "size": SQUARE}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(facts))
    data, manner = shop(PICTURES), manner_of(tmp_path)
    pixels = torch.from_numpy(manner.ready(np.stack([frame_of(one, manner) for one in PICTURES])))
    with torch.inference_mode():
        found = model(pixel_values=pixels)
    expected = found.image_embeds if name.startswith("CLIP") else found.last_hidden_state[:, 0]
    vectors = ours(tmp_path, normalise=False).fit(data).encode(data.items)
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


def test_a_photo_is_turned_as_its_camera_says(folder):
    manner, picture = manner_of(folder()), drawn("RGB", 60, 40)
    exif = pil.Exif()
    exif[0x0112] = 6
    turned = written(picture, "PNG", exif=exif)
    upright = written(picture.transpose(pil.Transpose.ROTATE_270))
    np.testing.assert_array_equal(frame_of(turned, manner), frame_of(upright, manner))


def test_real_garments_and_real_palettes_equal_those_of_transformers(folder, real_data):
    photos = pq.read_table(real_data("fashion-clothing-images") / "images.parquet", columns=["jpeg"])[0]
    emoji = pq.read_table(real_data("multimodal-emojitwo") / "items.parquet", columns=["png"])[0]
    data = [*photos[::400].to_pylist(), *emoji[::200].to_pylist()]
    data += [written(opened(png).quantize(20)) for png in emoji[::500].to_pylist()]
    for kind in ("clip", "siglip", "dinov2"):
        processor, options = KINDS[kind]
        manner = manner_of(folder(kind))
        pixels = processor(**options)([opened(one) for one in data], return_tensors="np")["pixel_values"]
        frames = np.stack([frame_of(one, manner) for one in data])
        np.testing.assert_allclose(manner.ready(frames), pixels, atol=1e-5)


def test_pictures_of_one_kind_are_nearer_each_other_than_to_others_even_by_a_random_model(folder, real_data):
    table = pq.read_table(real_data("multimodal-emojitwo") / "items.parquet", columns=["png", "category"])
    flags, faces = (table.filter(pa.compute.equal(table["category"], name))["png"][:20] for name in ("flags", "people"))
    data = shop(pa.chunked_array([*flags.chunks, *faces.chunks]))
    vectors = ours(folder("dinov2")).fit(data).encode(data.items)
    near = (vectors @ vectors.T - 2 * np.eye(40)).argmax(1)
    assert ((near < 20) == (np.arange(40) < 20)).mean() > 0.8


# Workers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_processes_make_the_same_frames(folder, kind):
    manner = manner_of(folder(kind))
    images = [*PICTURES, b"junk", b"", *PICTURES[::-1]]
    with Decoder(manner, 0) as alone, Decoder(manner, 2) as three:
        expected, found = alone.frames(images), three.frames(images)
        batches = list(three.ahead([images[:5], images[5:6], images[6:]]))
    for mine, other in zip(expected, found):
        np.testing.assert_array_equal(mine, other)
    assert found[1].tolist() == [True] * 9 + [False] * 2 + [True] * 9
    np.testing.assert_array_equal(np.concatenate([frames for frames, _ in batches]), expected[0])


def test_a_worker_that_is_killed_is_started_again_and_no_image_is_lost(folder):
    with Decoder(manner_of(folder()), 1) as decoder:
        decoder._processes[0].kill()
        decoder._processes[0].wait()
        assert decoder.frames(PICTURES)[1].all()


DEADLY = (
    "import os, sys; from itemic.encoders import decoder as p; framed = p._framed\n"
    "p._framed = lambda data, manner: os._exit(1) if data == b'deadly' else framed(data, manner)\n"
    "p._serve(sys.stdin.buffer, sys.stdout.buffer, p._manner_from(sys.argv[1]))"
)


def test_an_image_that_kills_workers_is_broken_and_the_others_are_read(folder, monkeypatch):
    popen = subprocess.Popen
    monkeypatch.setattr(
        subprocess, "Popen", lambda command, **pipes: popen([command[0], "-c", DEADLY, command[3]], **pipes)
    )
    with Decoder(manner_of(folder()), 1) as decoder:
        assert decoder.frames([PICTURES[0], b"deadly", PICTURES[1]])[1].tolist() == [True, False, True]


def test_workers_that_cannot_start_are_an_error_and_no_broken_images(folder, monkeypatch):
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda command, **pipes: popen([command[0], "-c", "pass"], **pipes))
    data = shop(PICTURES)
    with pytest.raises(ConfigError, match="a process that decodes images cannot start here. Decode in this one: --set"):
        ours(folder(), workers=1).fit(data).encode(data.items)
    assert Cache.memory == {}


def test_a_script_without_a_guard_may_use_processes(folder, tmp_path):
    (tmp_path / "script.py").write_text(
        "import sys; from pathlib import Path; from itemic.encoders.pixels import manner_of\n"
        "from itemic.encoders.decoder import Decoder\n"
        "with Decoder(manner_of(Path(sys.argv[1])), 2) as decoder:\n"
        "    print('here', decoder.frames([Path(sys.argv[2]).read_bytes(), b'junk'])[1])\n"
    )
    (tmp_path / "one.png").write_bytes(PICTURES[0])
    command = [sys.executable, tmp_path / "script.py", folder(), tmp_path / "one.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("here [ True False]\n", "")


def test_few_images_are_decoded_in_this_process_and_many_beside_it(monkeypatch):
    monkeypatch.setattr(module.os, "sched_getaffinity", lambda of: range(4), raising=False)
    assert (module._spare(511), module._spare(512)) == (0, 3)


# Items ----------------------------------------------------------------------------------------------------------------


def test_paths_and_bytes_give_the_same_vectors_and_what_is_missing_or_broken_is_nan_and_told_of(folder, tmp_path):
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    for n, data in enumerate(PICTURES):
        (tmp_path / "data" / "pictures" / f"{n}.any").write_bytes(data)
    (tmp_path / "data" / "pictures" / "broken.png").write_bytes(PICTURES[0][:70])
    inside = [f"pictures/{n}.any" for n in range(len(PICTURES))]
    rest, place = ["pictures/broken.png", "pictures/none.png", None, " "], folder()
    by_path = shop([*inside, *rest], tmp_path / "data")
    absolute = shop([str(tmp_path / "data" / name) for name in inside], tmp_path / "elsewhere")
    by_bytes, told = shop([*PICTURES, PICTURES[0][:70], b"junk", None, b""]), []
    with listening(lambda description, *_: told.append(description)):
        found = ours(place).fit(by_path).encode(by_path.items)
    assert told.count("2 of 13 items have no image: their vectors are nan") == 1
    assert told.count("2 of 13 items have no vector, as their images cannot be read: 'i9', 'i10'") == 1
    assert np.isnan(found).all(1).tolist() == [False] * 9 + [True] * 4
    as_others_store = pa.array([{"bytes": data, "path": None} for data in by_bytes.items.column("image").to_pylist()])
    for data in (absolute, by_bytes, shop(as_others_store)):
        other = ours(place).fit(data).encode(data.items)
        np.testing.assert_array_equal(other[:9], found[:9])
        assert np.isnan(other[9:]).all()


def test_put_on_other_data_it_reads_the_pictures_that_lie_there(folder, tmp_path):
    for n, name in enumerate(("here", "there")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "one.png").write_bytes(PICTURES[n])
    here, there = (shop(["one.png"], tmp_path / name) for name in ("here", "there"))
    model = ours(folder()).fit(here)
    alone = ours(folder()).fit(there).encode(there.items)
    np.testing.assert_array_equal(model.adopt(there).encode(there.items), alone)
    assert not np.allclose(model.encode(here.items), alone, atol=1e-3)


def test_vectors_are_kept_by_the_bytes_of_images_and_none_is_read_twice(folder, tmp_path, monkeypatch):
    place, read = folder(), []
    data = shop([PICTURES[0], PICTURES[1], PICTURES[0]], tmp_path)
    first = ours(place).fit(data).encode(data.items)
    assert len(list((tmp_path / "features").glob("image-*/*.safetensors"))) == 1
    again = ours(place).fit(data)
    reader = again.reader.read
    monkeypatch.setattr(again.reader, "read", lambda frames: read.append(len(frames)) or reader(frames))
    np.testing.assert_array_equal(again.encode(data.items), first)
    assert read == []
    longer = shop([PICTURES[1], PICTURES[2], PICTURES[2]], tmp_path)
    np.testing.assert_array_equal(again.encode(longer.items)[0], first[1])
    assert read == [1]


def test_a_file_that_changes_while_images_are_read_is_refused_and_nothing_wrong_is_kept(folder, tmp_path, monkeypatch):
    (tmp_path / "one.png").write_bytes(PICTURES[0])
    data, read = shop(["one.png"], tmp_path), Path.read_bytes
    model = ours(folder()).fit(data)

    def read_and_changed(path):
        found = read(path)
        if path.name == "one.png":
            path.write_bytes(PICTURES[1])
        return found

    monkeypatch.setattr(Path, "read_bytes", read_and_changed)
    with pytest.raises(DataError, match="the image in row 1 changed while images were read. Encode again."):
        model.encode(data.items)
    assert not list((tmp_path / "features").glob("image-*/*.safetensors"))


def test_images_are_in_memory_a_batch_at_a_time(folder, monkeypatch):
    most = []
    monkeypatch.setattr(module, "BATCH", 3)
    data = shop([written(drawn("RGB", 40, 30, seed)) for seed in range(20)])
    model = ours(folder()).fit(data)
    frames = Decoder.frames
    monkeypatch.setattr(Decoder, "frames", lambda self, images: most.append(len(images)) or frames(self, images))
    assert np.isfinite(model.encode(data.items)).all()
    assert (max(most), sum(most)) == (3, 20)


def test_half_the_precision_leaves_each_vector_where_it_is(folder):
    place, data = folder("dinov2"), shop(PICTURES)
    one, other = (ours(place, precision=p).fit(data).encode(data.items) for p in ("float32", "bfloat16"))
    assert (one * other).sum(1).min() > 0.99
    assert not np.array_equal(one, other)


def test_a_saved_encoder_is_a_reference_and_refuses_another_model(folder, tmp_path):
    place, data = folder(), shop(PICTURES)
    model = ours(place).fit(data)
    saved = model.save(tmp_path / "saved")
    assert sum(path.stat().st_size for path in saved.rglob("*")) < 20_000
    again = load(saved)
    assert again.dim == model.dim == 24
    np.testing.assert_array_equal(again.encode(data.items), model.encode(data.items))
    (place / "preprocessor_config.json").write_text("{}")
    with pytest.raises(LoadError, match="saved was fitted with another vision model than .*clip is now. Put that back"):
        load(saved)
    shutil.rmtree(place)
    with pytest.raises(LoadError, match="saved needs the vision model it was fitted with: there is no vision model"):
        load(saved)


# Bad input ------------------------------------------------------------------------------------------------------------


def test_items_without_images_are_refused_in_one_line(folder):
    place = folder()
    with pytest.raises(DataError, match="no column of the items of data is known as image: title. Name one: --set col"):
        ours(place).fit(Dataset.from_frame({"user": ["u"], "item": ["a"]}, items={"id": ["a"], "title": ["cup"]}))
    with pytest.raises(DataError, match="no item of data has an image in image. Name another: --set column=NAME."):
        ours(place).fit(shop([None, "", " "]))
    with pytest.raises(DataError, match="items.image holds int64, neither paths nor bytes of images. Name another"):
        ours(place).fit(shop([1, 2]))
    with pytest.raises(DataError, match="items have no column 'picture'"):
        ours(place, column="picture").fit(shop(PICTURES))
    with pytest.raises(ConfigError, match="image: workers cannot be -1"):
        Image(workers=-1)


def test_a_model_that_is_not_there_or_not_read_here_is_refused_in_one_line(folder, monkeypatch):
    hub, data = pytest.importorskip("huggingface_hub"), shop(PICTURES)

    def offline(name, allow_patterns):
        raise OSError("cannot reach the hub\nmore")

    monkeypatch.setattr(hub, "snapshot_download", offline)
    with pytest.raises(
        ConfigError,
        match="there is no vision model 'google/siglip-base-patch16-224': cannot reach the hub. Name the folder of one",
    ):
        Image().fit(data)
    place = folder()
    config, manner = place / "config.json", place / "preprocessor_config.json"
    facts, prepared = json.loads(config.read_text()), json.loads(manner.read_text())

    def refused(path, text, message):
        before = path.read_bytes()
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ConfigError, match=message) as caught:
            ours(place).fit(data)
        assert "\n" not in str(caught.value)
        path.write_bytes(before)

    refused(config, json.dumps(facts | {"model_type": "bert"}), "clip is of type bert, no vision model known here")
    refused(config, "{", "config.json is damaged: .*. Restore the folder of the model.")
    refused(manner, "{", "preprocessor_config.json is damaged: .*. Restore the folder of the model.")
    refused(
        manner, json.dumps(prepared | {"image_processor_type": "SamImageProcessor"}),
        "clip prepares images by SamImageProcessor. Use a model that does so as CLIP, Bit, Siglip, ViT, DINOv3ViT.",
    )  # fmt: skip
    refused(manner, json.dumps(prepared | {"do_center_crop": False}), "makes images of many sizes: .*_edge': 33")
    refused(manner, json.dumps(prepared | {"size": {"longest_edge": 9}}), "size {'longest_edge': 9}, which is not")
    refused(manner, json.dumps(prepared | {"crop_size": 14}), "clip cannot read images as it prepares them: ")
    weights = place / "model.safetensors"
    refused(weights, b"junk", "transformers cannot read .*clip: .*. Name another folder.")
    from safetensors.numpy import load_file, save

    kept = {name: value for name, value in load_file(weights).items() if "visual_projection" not in name}
    refused(weights, save(kept, {"format": "pt"}), "clip lacks the weights 'visual_projection.weight'. Use a wh")
    manner.unlink()
    with pytest.raises(ConfigError, match="clip has no preprocessor_config.json. Name a model of images that"):
        ours(place).fit(data)


def test_a_folder_with_pickled_weights_alone_is_refused(folder):
    place = folder()
    (place / "model.safetensors").unlink()
    torch.save(made("clip").state_dict(), place / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="transformers cannot read .*clip: .*safetensors"):
        ours(place).fit(shop(PICTURES))


@pytest.mark.parametrize("package", ["transformers", "PIL"])
def test_what_is_not_installed_is_named(folder, monkeypatch, package):
    place = folder()
    monkeypatch.setitem(sys.modules, package, None)
    data, mend = shop(PICTURES), "Install it: pip install 'itemic.image.'"
    with pytest.raises(ConfigError, match=f"reading images needs the package .*. {mend}"):
        ours(place).fit(data).encode(data.items)
