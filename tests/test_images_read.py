"""One way in: every kind of source and file is read as images, one by one, by one rule."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from air import AIRConfig
from air.images import Pictures, describe_images, files, read_image
from air.object_size import count_regions
from experiments.benchmarks.own_images import cases


@pytest.fixture(scope="module")
def scenes():
    """Disks of 1 on 0, and their counts."""
    rng = np.random.default_rng(0)
    counts = [int(n) for n in rng.integers(0, 4, 6)]
    counts[:2] = [3, 1]
    return [cases.paint(cases.place(rng, n, cases.KINDS["control"]), 64) for n in counts], counts


def as_bytes(scene):
    return (255 * scene).astype(np.uint8)


def save_cmyk(scene, path):
    Image.fromarray(as_bytes(scene)).convert("RGB").convert("CMYK").save(path, "JPEG")


def save_rgba(color):
    def save(scene, path):
        rgb = np.full((*scene.shape, 3), color)
        Image.fromarray(np.dstack([rgb, 255 * scene]).astype(np.uint8)).save(path, "PNG")

    return save


def save_as(change, dtype):
    def save(scene, path):
        Image.fromarray(change(scene).astype(dtype)).save(path)

    return save


def save_turned(scene, path):
    image = Image.fromarray(np.kron(as_bytes(scene), np.ones((2, 1), np.uint8)))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(path, exif=exif, quality=95)


def save_palette(scene, path):
    Image.fromarray(as_bytes(scene)).convert("P").save(path)


NOISE = np.random.default_rng(0).normal(0, 4, (64, 64))
KINDS = {
    "dim16.tif": (save_as(lambda s: 500 + 60 * s + NOISE, np.uint16), torch.uint16, "bright"),
    "narrow16.tif": (save_as(lambda s: 33069 + 3700 * s, np.uint16), torch.uint16, "bright"),
    "deep.png": (save_as(lambda s: 65535 * s, np.uint16), torch.uint16, "bright"),
    "float.tif": (save_as(lambda s: 1000 * s - 20, np.float32), torch.float32, "bright"),
    "int32.tif": (save_as(lambda s: 65535 * s, np.int32), torch.float32, "bright"),
    "palette.gif": (save_palette, torch.uint8, "bright"),
    "cmyk.jpg": (save_cmyk, torch.uint8, "bright"),
    "turned.jpg": (save_turned, torch.uint8, "bright"),
    "white_on_nothing.png": (save_rgba(255), torch.uint8, "bright"),
    "black_on_nothing.png": (save_rgba(0), torch.uint8, "dark"),
    "white.npy": (lambda s, path: np.save(path, s.astype(np.float32)), torch.float32, "bright"),
    "below.npy": (lambda s, path: np.save(path, s - 0.1), torch.float64, "bright"),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_files(name, scenes, tmp_path):
    save, kind, objects = KINDS[name]
    for number, scene in enumerate(scenes[0]):
        save(scene, tmp_path / f"{number}-{name}")
    pictures = list(Pictures(tmp_path))
    assert [picture.name for picture in pictures] == [f"{n}-{name}" for n in range(6)]
    assert {picture.pixels.dtype for picture in pictures} == {kind}
    found = describe_images(tmp_path)
    assert found.preparation.objects == objects
    assert found.channels == 1
    config = AIRConfig(canvas_size=found.canvas_size, channels=found.channels)
    for picture, count in zip(pictures, scenes[1], strict=True):
        prepared, _ = found.preparation.prepare(picture.pixels, config, size=picture.size)
        assert count_regions(prepared) == count
    if name == "turned.jpg":
        assert pictures[0].size == (64, 128)
        assert pictures[0].pixels.shape == (1, 64, 128)


@pytest.mark.parametrize("ending", ["tif", "gif", "webp", "png"])
def test_every_page_is_an_image_of_its_own(ending, scenes, tmp_path):
    first, *others = [Image.fromarray(as_bytes(scene)) for scene in scenes[0][:3]]
    first.save(tmp_path / f"s.{ending}", save_all=True, append_images=others, lossless=True)
    pictures = list(Pictures(tmp_path / f"s.{ending}"))
    assert [picture.name for picture in pictures] == [f"s.{ending}[{n}]" for n in range(3)]
    for picture, scene in zip(pictures, scenes[0], strict=False):
        pixels = picture.pixels.float().mean(dim=0)
        assert (pixels - torch.tensor(as_bytes(scene)).float()).abs().mean() < 2
        assert torch.equal(picture.original(), picture.pixels)
    with pytest.raises(ValueError, match="no page 3"):
        read_image(tmp_path / f"s.{ending}", 3)


def test_numpys_stacks(scenes, tmp_path):
    stack = np.stack([as_bytes(scene) for scene in scenes[0]])
    np.save(tmp_path / "three.npy", stack[:3])  # not one image of three channels
    assert [p.name for p in Pictures(tmp_path / "three.npy")] == [
        f"three.npy[{n}]" for n in range(3)
    ]
    np.save(tmp_path / "color.npy", np.zeros((8, 9, 3)))
    assert [tuple(p.pixels.shape) for p in Pictures(tmp_path / "color.npy")] == [(3, 8, 9)]
    labels = np.array([np.arange(n) for n in scenes[1]], dtype=object)
    np.savez(tmp_path / "pyro.npz", x=stack, y=labels)
    with pytest.warns(UserWarning, match=r"pyro\.npz: y left out: pickled objects are never"):
        pictures = list(Pictures(tmp_path / "pyro.npz"))
    assert [picture.name for picture in pictures] == [f"pyro.npz[{n}]" for n in range(6)]
    assert np.array_equal(pictures[4].pixels[0], stack[4])
    np.savez_compressed(tmp_path / "named.npz", images=stack, num_objects=scenes[1])
    assert len(list(Pictures(tmp_path / "named.npz"))) == 6
    np.savez(tmp_path / "odd.npz", one=stack, two=stack)
    with pytest.raises(ValueError, match="it holds one, two; expected one array"):
        list(Pictures(tmp_path / "odd.npz"))


def test_pickles_are_never_loaded(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"a\.npy cannot be read"):
        list(Pictures(tmp_path / "a.npy"))


class Cells(Dataset):
    """Images with labels, as torchvision's data sets are."""

    def __init__(self, images, item):
        self.images, self.item = images, item
        self.read = 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.read += 1
        return self.item(self.images[index])


IMAGES = torch.rand(5, 1, 8, 9)
SOURCES = {
    "tensor": IMAGES,
    "array": IMAGES.numpy(),
    "grey array": IMAGES[:, 0].numpy(),
    "list": list(IMAGES),
    "generator": (image for image in IMAGES),
    "pillow": [Image.fromarray(image[0].numpy()) for image in IMAGES],
    "tensor data set": TensorDataset(IMAGES, torch.zeros(5)),
    "tuples": Cells(IMAGES, lambda image: (image, 3)),
    "dictionaries": Cells(IMAGES, lambda image: {"image": image, "label": 3}),
    "pillow data set": Cells(IMAGES, lambda image: (Image.fromarray(image[0].numpy()), 3)),
    "loader": DataLoader(TensorDataset(IMAGES, torch.zeros(5)), batch_size=2),
    "plain loader": DataLoader(Cells(IMAGES, lambda image: image[0]), batch_size=2),
}


@pytest.mark.parametrize("source", SOURCES)
def test_images_in_memory(source):
    pictures = Pictures(SOURCES[source])
    for _ in range(2):  # can be gone through again
        read = list(pictures)
        assert [picture.name for picture in read] == [f"image {n}" for n in range(5)]
        assert torch.equal(torch.stack([picture.pixels for picture in read]), IMAGES)


def test_one_image_is_one_image():
    for image in (IMAGES[0], IMAGES[0, 0], IMAGES[0].numpy(), Image.new("P", (9, 8))):
        (picture,) = Pictures(image)
        assert picture.size == (8, 9)


def test_images_are_read_when_it_is_their_turn():
    cells = Cells(IMAGES, lambda image: image)
    pictures = iter(Pictures(cells))
    assert cells.read == 0
    next(pictures)
    assert cells.read == 1


def test_of_a_data_set_only_those_that_are_chosen_are_read():
    cells = Cells(IMAGES, lambda image: image)
    chosen = list(Pictures(cells).sample(2))
    assert cells.read == 2
    assert torch.equal(chosen[1].pixels, IMAGES[2])


def test_a_source_that_is_none_says_what_is_expected():
    for bad in (3, {"a": 1}, []):
        with pytest.raises(ValueError, match="images must"):
            list(Pictures(bad))
    with pytest.raises(ValueError, match=r"keys a\. Expected one of: image"):
        list(Pictures(Cells(IMAGES, lambda image: {"a": image})))


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.png", "day1/c.png", "day1/deep/d.png", ".hidden/e.png", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), 200).save(tmp_path / name, "PNG")
    return tmp_path


def names(*arguments, **options):
    return [picture.name for picture in Pictures(*arguments, **options)]


def test_folders_and_patterns(folder):
    assert names(folder) == ["a.png", "b.png"]
    assert names(folder, recursive=True) == ["a.png", "b.png", "day1/c.png", "day1/deep/d.png"]
    assert names(str(folder / "*.png")) == ["a.png", "b.png"]
    assert names(str(folder / "*" / "*.png")) == ["day1/c.png"]
    assert names([folder / "day1", folder / "a.png"]) == ["c.png", "a.png"]
    (folder / "empty").mkdir()
    Image.new("L", (6, 4)).save(folder / "day1" / "deep" / "f.png")
    (folder / "outer" / "inner").mkdir(parents=True)
    Image.new("L", (6, 4)).save(folder / "outer" / "inner" / "f.png")
    with pytest.raises(FileNotFoundError, match="folders inside it: ask for them with recursive"):
        Pictures(folder / "outer")
    with pytest.raises(FileNotFoundError, match=r"no image was found.*\.png.*\.npy"):
        Pictures(folder / "empty")
    with pytest.raises(FileNotFoundError, match="does not exist"):
        Pictures(folder / "nowhere.png")


def test_a_damaged_file_is_an_error_or_listed(folder):
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:50])
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        names(folder)
    pictures = Pictures(folder, recursive=True, skip_damaged=True)
    assert [picture.name for picture in pictures] == ["a.png", "day1/c.png", "day1/deep/d.png"]
    ((name, reason),) = pictures.skipped
    assert name == "b.png"
    assert "cannot be read as an image" in reason
    list(pictures)
    assert len(pictures.skipped) == 1  # not once more each time


def test_a_damaged_page_does_not_lose_those_before_it(tmp_path):
    rng = np.random.default_rng(0)
    pages = [Image.fromarray(rng.integers(0, 255, (64, 64), np.uint8)) for _ in range(3)]
    pages[0].save(tmp_path / "s.tif", save_all=True, append_images=pages[1:])
    content = (tmp_path / "s.tif").read_bytes()
    with Image.open(tmp_path / "s.tif") as image:
        image.seek(2)
        (start,) = image.tag_v2[273]  # where its pixels are
    (tmp_path / "s.tif").write_bytes(content[: start + 100])
    pictures = Pictures(tmp_path, skip_damaged=True)
    assert [picture.name for picture in pictures] == ["s.tif[0]", "s.tif[1]"]
    ((name, _),) = pictures.skipped
    assert name == "s.tif[2]"


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_MOST_PIXELS", 2399)
    Image.new("L", (60, 40)).save(tmp_path / "a.png")
    np.save(tmp_path / "a.npy", np.zeros((40, 60), np.uint8))
    np.savez(tmp_path / "a.npz", np.zeros((40, 60), np.uint8))
    for name in ("a.png", "a.npy", "a.npz"):
        with pytest.raises(ValueError, match="60 x 40 pixels are too many"):
            list(Pictures(tmp_path / name))
    monkeypatch.setattr(files, "_MOST_ARRAY_BYTES", 100)
    with pytest.raises(ValueError, match="is too large"):
        list(Pictures(tmp_path / "a.npz"))


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.npy"])
def test_large_images_are_read_near_the_size_they_are_needed_at(name, tmp_path, monkeypatch):
    scene = np.kron(np.random.default_rng(0).integers(0, 255, (30, 25)), np.ones((24, 24)))
    pixels = scene.astype(np.uint8)
    if name.endswith("npy"):
        np.save(tmp_path / name, pixels)
    else:
        Image.fromarray(pixels).save(tmp_path / name, quality=95)
    decoded = []
    own = files.pillow_pixels
    monkeypatch.setattr(files, "pillow_pixels", lambda i: decoded.append(i.size) or own(i))
    (picture,) = Pictures(tmp_path / name, reduce=12)
    assert picture.size == (720, 600)
    assert tuple(picture.pixels.shape) == (1, 60, 50)
    assert picture.pixels.dtype == torch.uint8
    assert (picture.pixels[0].float() - torch.tensor(pixels[6::12, 6::12])).abs().mean() < 3
    if name == "a.jpg":
        assert decoded == [(150, 180)]  # a quarter: the largest of 1, 2, 4, 8 that divides 12
    (picture,) = Pictures(tmp_path / name, longest_side=100)
    assert max(picture.pixels.shape) == 90
    assert picture.original().shape == (1, 720, 600)


def test_some_are_chosen_evenly(folder):
    sample = Pictures(folder, recursive=True).sample(2)
    assert [picture.name for picture in sample] == ["a.png", "day1/c.png"]
    assert len(list(Pictures(IMAGES).sample(3))) == 3
