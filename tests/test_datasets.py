"""Data sets: scenes and their files, MNIST's files, the generator, the registry."""

import dataclasses
import gzip
import hashlib
import os
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import experiments.datasets as datasets
from experiments.datasets import (
    DATASETS,
    DataSplits,
    Digits,
    MNISTUnavailable,
    Scenes,
    cache_path,
    check_max_objects,
    default_data_root,
    embedded_digits,
    full_mnist,
    load_dataset,
    mnist,
    multi_mnist,
    pyro_multi_mnist,
    read_idx,
)
from experiments.datasets.multi_mnist import split_digits
from experiments.datasets.scenes import (
    DamagedFileError,
    load_splits,
    save_splits,
)
from experiments.files import write_file

MNIST_ROOT = Path(
    os.environ.get("AIR_MNIST_ROOT") or Path(__file__).parents[2] / "shared" / "data" / "mnist"
)
needs_mnist = pytest.mark.skipif(
    not list(MNIST_ROOT.rglob("train-images-idx3-ubyte*")),
    reason="full MNIST is not here: set AIR_MNIST_ROOT to its folder",
)


@pytest.fixture(scope="module")
def digits():
    return embedded_digits()


@pytest.fixture(scope="module")
def small(digits):
    return multi_mnist(digits, num_train=300, num_held_out=100)


@pytest.fixture
def small_registry(monkeypatch, digits):
    """Every data set in the registry, with 60 scenes only."""

    def make(_, progress):
        return multi_mnist(digits, num_train=40, num_held_out=20, progress=progress)

    pixel_sum = make(None, False).pixel_sum
    for name, spec in list(DATASETS.items()):

        def renamed(_, progress, name=name):
            return dataclasses.replace(make(None, progress), name=name)

        small_spec = dataclasses.replace(spec, make=renamed, pixel_sum=pixel_sum)
        monkeypatch.setitem(DATASETS, name, small_spec)


@pytest.fixture
def no_mnist(monkeypatch):
    monkeypatch.delenv("AIR_MNIST_ROOT", raising=False)

    def fail(data_root):
        raise MNISTUnavailable("no\nnetwork")

    monkeypatch.setattr(mnist, "_download", fail)


def scenes_of(counts, *, max_count=2):
    """Black scenes with the given counts."""
    counts = torch.tensor(counts)
    exists = torch.arange(max_count) < counts[:, None]
    return Scenes(
        images=torch.zeros(len(counts), 1, 4, 4, dtype=torch.uint8),
        num_objects=counts,
        classes=torch.where(exists, 1, -1),
        boxes=torch.where(exists[..., None], torch.tensor([0.0, 0, 2, 2]), torch.nan),
        name="test",
    )


# Scenes


def test_scenes_are_sliced_together(small):
    scenes = small.train
    index = torch.tensor([5, 3, 250])
    for part, rows in (
        (scenes[10:20], slice(10, 20)),
        (scenes[index], index),
        (scenes[scenes.num_objects == 2], scenes.num_objects == 2),
    ):
        assert isinstance(part, Scenes)
        assert len(part) == len(part.images) == len(scenes.images[rows])
        assert torch.equal(part.images, scenes.images[rows])
        assert torch.equal(part.num_objects, scenes.num_objects[rows])
        assert torch.equal(part.classes, scenes.classes[rows])
        assert torch.equal(part.boxes.nan_to_num(-1), scenes.boxes[rows].nan_to_num(-1))
        assert torch.equal(part.masks, scenes.masks[rows])


def test_a_number_is_no_slice(small):
    with pytest.raises(TypeError, match=r"scenes\[i : i \+ 1\]"):
        small.train[3]


def test_checksums_are_those_of_the_bytes(small):
    pixels = small.train.images.numpy()
    assert small.train.pixel_sum == pixels.astype(np.int64).sum()
    assert small.train.sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    every_second = small.train[torch.arange(0, 300, 2)]
    assert small.train[::2].sha256 == every_second.sha256 != small.train.sha256
    both = pixels.tobytes() + small.held_out.images.numpy().tobytes()
    assert small.sha256 == hashlib.sha256(both).hexdigest()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", torch.zeros(3, 1, 4, 4), "images of test must be torch.uint8"),
        ("images", torch.zeros(3, 4, 4, dtype=torch.uint8), "images of test"),
        ("num_objects", torch.zeros(2, dtype=torch.int64), "num_objects of test"),
        ("num_objects", torch.tensor([0, 3, 2]), "scene 1 of test is said to hold 3"),
        ("num_objects", torch.tensor([0, 1, -1]), "scene 2 of test"),
        ("num_objects", torch.tensor([0, 2, 2]), "scene 1 of test has num_objects = 2"),
        ("classes", torch.zeros(3, dtype=torch.int64), "classes of test"),
        ("classes", torch.tensor([[-1, -1], [-1, 1], [1, 1]]), "scene 1 of test"),
        ("boxes", torch.zeros(3, 1, 4), "boxes of test"),
        ("boxes", torch.zeros(3, 2, 4), "scene 0 of test"),
        ("masks", torch.zeros(3, 2, 4, 2, dtype=torch.uint8), "masks of test"),
        ("masks", torch.zeros(3, 2, 4, 1), "masks of test"),
        ("masks", torch.ones(3, 2, 4, 1, dtype=torch.uint8), "scene 0 of test"),
    ],
)
def test_scenes_that_contradict_themselves_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(scenes_of([0, 1, 2]), **{field: value})


def test_halves_of_different_shapes_are_refused(small):
    with pytest.raises(ValueError, match="one shape"):
        dataclasses.replace(small, train=scenes_of([1]))


def test_label_above_max_objects_is_refused():
    scenes = scenes_of([0, 1, 2, 3, 2], max_count=3)
    check_max_objects(scenes, 3)
    with pytest.raises(ValueError, match=r"scene 2 of test holds 2.*3 of 5.*--max-objects to 3"):
        check_max_objects(scenes, 1)


def test_masks_say_which_digit_lights_which_pixel(small):
    scenes = small.train[:100]
    masks = scenes.instance_masks()
    assert masks.shape == (100, 2, 50, 50)
    assert masks.dtype == torch.bool
    assert torch.equal(masks.any(dim=1), scenes.images[:, 0] > 0)
    for mask, box, count in zip(masks, scenes.boxes, scenes.num_objects, strict=True):
        for i in range(2):
            rows, columns = mask[i].nonzero(as_tuple=True)
            assert (len(rows) > 0) == (i < count)
            if i < count:
                extent = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert box[i].tolist() == [float(edge) for edge in extent]


def test_masks_are_packed_as_documented():
    scenes = dataclasses.replace(
        scenes_of([1]), masks=torch.tensor([[[[0b10010000], [0], [0], [0]], [[0]] * 4]]).byte()
    )
    assert scenes.instance_masks()[0, 0].nonzero().tolist() == [[0, 0], [0, 3]]
    with pytest.raises(ValueError, match="masks of test are unknown"):
        scenes_of([1]).instance_masks()


def test_what_is_unknown_may_stay_so(tmp_path):
    scenes = scenes_of([0, 1, 2])
    unknown = dataclasses.replace(
        scenes, classes=torch.full((3, 2), -1), boxes=torch.full((3, 2, 4), torch.nan)
    )
    assert unknown.is_counted
    uncounted = dataclasses.replace(unknown, num_objects=torch.full((3,), -1))
    assert not uncounted.is_counted
    check_max_objects(uncounted, 1)
    splits = DataSplits(train=uncounted, held_out=uncounted[:1], name="x")
    save_splits(splits, tmp_path / "x.npz")
    loaded = load_splits(tmp_path / "x.npz")
    assert loaded.train.num_objects.tolist() == [-1, -1, -1]
    assert loaded.train.masks is None
    assert len(loaded.held_out) == 1
    empty = DataSplits(train=uncounted, held_out=uncounted[:0], name="x")
    save_splits(empty, tmp_path / "empty.npz")
    assert len(load_splits(tmp_path / "empty.npz").held_out) == 0
    assert len(loaded.held_out) == 1


# Files of scenes


def test_saved_scenes_are_read_back_without_pickles(small, tmp_path):
    path = tmp_path / "new" / "scenes.npz"
    save_splits(small, path)
    assert [entry.name for entry in path.parent.iterdir()] == ["scenes.npz"]
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as file:
                np.lib.format.read_magic(file)
                assert not np.lib.format.read_array_header_1_0(file)[2].hasobject
    loaded = load_splits(path)
    assert loaded.name == small.name
    for ours, theirs in ((loaded.train, small.train), (loaded.held_out, small.held_out)):
        assert ours.name == theirs.name
        assert ours.sha256 == theirs.sha256
        assert torch.equal(ours.num_objects, theirs.num_objects)
        assert torch.equal(ours.classes, theirs.classes)
        assert torch.equal(ours.boxes.nan_to_num(-1), theirs.boxes.nan_to_num(-1))
        assert torch.equal(ours.masks, theirs.masks)


def damage_cut(path, small):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_flip(path, small):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 0xFF
    path.write_bytes(content)


def damage_empty(path, small):
    path.write_bytes(b"")


def damage_text(path, small):
    path.write_text("not found")


def damage_array(path, small):
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))


def damage_pickle(path, small):
    np.savez(path, name=np.array([{}], dtype=object))


def damage_other(path, small):
    """A sound archive whose labels were changed after the checksum was made."""
    with np.load(path) as file:
        arrays = dict(file)
    arrays["train_classes"] = np.where(arrays["train_classes"] == 3, 5, arrays["train_classes"])
    np.savez(path, **arrays)


DAMAGES = [
    damage_cut,
    damage_flip,
    damage_empty,
    damage_text,
    damage_array,
    damage_pickle,
    damage_other,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_file_is_noticed(damage, small, tmp_path):
    path = tmp_path / "scenes.npz"
    save_splits(small, path)
    damage(path, small)
    with pytest.raises(DamagedFileError, match=r"scenes\.npz"):
        load_splits(path)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def fail(file):
        file.write(b"new")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_file(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


# MNIST


def idx(shape, data, *, kind=8):
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + data


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx_is_read(pack, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(pack(idx((2, 3), bytes(range(6)))))
    assert read_idx(path).tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read_idx(path).dtype == np.uint8


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no IDX file"),
        (b"<html>404", "no IDX file"),
        (idx((4,), bytes(4), kind=13), "no IDX file"),
        (idx((), b""), "no IDX file"),
        (idx((1,) * 200, b"\0"), "no IDX file"),
        (idx((2, 3), b"")[:-2], "ends inside"),
        (idx((2, 3), bytes(5)), "damaged"),
        (idx((2, 3), bytes(7)), "damaged"),
        (idx((0xFFFFFFFF,) * 3, bytes(7)), "damaged"),
        (idx((0x10000, 0x10000), b""), "damaged"),
    ],
)
def test_hostile_idx_is_refused(pack, content, message, tmp_path):
    path = tmp_path / "some-file"
    path.write_bytes(pack(content))
    with pytest.raises(ValueError, match=f"some-file.*{message}"):
        read_idx(path)


def test_impossible_size_is_refused_before_the_data_is_read(tmp_path):
    path = tmp_path / "some-file.gz"
    path.write_bytes(gzip.compress(idx((0xFFFFFFFF,) * 3, b"")))
    with pytest.raises(ValueError, match=r"at most \d+ can be in it"):
        read_idx(path)


@pytest.mark.parametrize("cut", [1, 9, 20])
def test_cut_gzip_is_refused(cut, tmp_path):
    path = tmp_path / "some-file.gz"
    path.write_bytes(gzip.compress(idx((100,), os.urandom(100)))[:-cut])
    with pytest.raises(ValueError, match="some-file"):
        read_idx(path)


def test_embedded_digits_are_the_published_files(digits):
    assert len(digits) == 10_000
    assert np.bincount(digits.labels).tolist() == [
        980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009,
    ]  # fmt: skip
    folder = Path(mnist.__file__).parent / "mnist"
    table = dict(re.findall(r"`(\S+\.gz)`.*`(\w{64})`", (folder / "ATTRIBUTION.md").read_text()))
    assert len(table) == 2
    for name, expected in table.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == expected
    assert sum(path.stat().st_size for path in folder.glob("*.gz")) <= 2_000_000


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 27, 28), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 28, 28)), np.zeros(2, np.int64)),
        (np.zeros((2, 28, 28), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.int64)),
        (np.zeros((2, 28, 28), np.uint8), np.array([0, 10])),
    ],
)
def test_what_are_no_digits_is_refused(images, labels):
    with pytest.raises(ValueError, match=r"digit|labels"):
        Digits(images=images, labels=labels)


@pytest.fixture
def few_training_digits(monkeypatch):
    monkeypatch.setattr(mnist, "_NUM_TRAINING_DIGITS", 3)

    def write(folder, *, zipped=False, value=0):
        folder.mkdir(parents=True, exist_ok=True)
        suffix, pack = (".gz", gzip.compress) if zipped else ("", bytes)
        images = idx((3, 28, 28), bytes([value]) * 3 * 784)
        (folder / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(images))
        (folder / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(idx((3,), b"\1\2\3")))

    return write


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("layout", ["MNIST/raw", "raw", "."])
def test_full_mnist_is_found_in_every_layout(layout, zipped, few_training_digits, tmp_path):
    few_training_digits(tmp_path / layout, zipped=zipped)
    assert full_mnist(tmp_path, data_root=tmp_path / "none").labels.tolist() == [1, 2, 3]


def test_full_mnist_goes_by_argument_then_variable_then_data_root(
    few_training_digits, no_mnist, monkeypatch, tmp_path
):
    for value, name in enumerate(("argument", "variable", "data"), start=1):
        few_training_digits(tmp_path / name, value=value)
    monkeypatch.setenv("AIR_MNIST_ROOT", str(tmp_path / "variable"))
    data = tmp_path / "data"
    assert full_mnist(tmp_path / "argument", data_root=data).images.max() == 1
    assert full_mnist(data_root=data).images.max() == 2
    monkeypatch.delenv("AIR_MNIST_ROOT")
    assert full_mnist(data_root=data).images.max() == 3
    with pytest.raises(MNISTUnavailable):
        full_mnist(data_root=tmp_path / "none")


def test_given_folder_without_mnist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train-images-idx3-ubyte.*MNIST.raw"):
        full_mnist(tmp_path, data_root=tmp_path)


def test_test_split_in_the_place_of_the_training_split_is_refused(few_training_digits, tmp_path):
    few_training_digits(tmp_path)
    mnist._NUM_TRAINING_DIGITS = 60_000  # put back by the fixture's monkeypatch
    with pytest.raises(ValueError, match="3 digits"):
        full_mnist(tmp_path, data_root=tmp_path)


def test_downloaded_digits_are_kept(few_training_digits, monkeypatch, tmp_path, capsys):
    torchvision_datasets = pytest.importorskip("torchvision.datasets")

    def download(root, *, train, download):
        print("noise")
        few_training_digits(Path(root) / "MNIST" / "raw")

    monkeypatch.setattr(torchvision_datasets, "MNIST", download)
    monkeypatch.delenv("AIR_MNIST_ROOT", raising=False)
    assert len(full_mnist(data_root=tmp_path)) == 3
    monkeypatch.setattr(torchvision_datasets, "MNIST", None)
    assert len(full_mnist(data_root=tmp_path)) == 3
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("error", [RuntimeError("all mirrors"), OSError("no network")])
def test_failed_download_is_reported(error, monkeypatch, tmp_path):
    torchvision_datasets = pytest.importorskip("torchvision.datasets")

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torchvision_datasets, "MNIST", fail)
    monkeypatch.delenv("AIR_MNIST_ROOT", raising=False)
    with pytest.raises(MNISTUnavailable, match=str(error)):
        full_mnist(data_root=tmp_path)
    assert list(tmp_path.iterdir()) == []


# Multi-MNIST


def oracle(digits, number, seed, resample):
    """Pyro's algorithm once more, as slow and as literal as it can be."""
    random = np.random.RandomState(seed)
    images, classes = [], []
    for _ in range(number):
        count = random.randint(3)
        canvas = np.full((50, 50), 256.0)
        while canvas.max() > 255:
            canvas, labels = np.zeros((50, 50)), []
            for _ in range(count):
                i = random.randint(len(digits.images))
                side = int(28 / (0.1 * random.randn() + 1.3))
                small = Image.fromarray(digits.images[i]).resize((side, side), resample)
                y, x = random.randint(0, 50 - side), random.randint(0, 50 - side)
                layer = np.zeros((50, 50))
                layer[y : y + side, x : x + side] = np.array(small)
                canvas = canvas + layer
                labels.append(int(digits.labels[i]))
        images.append(canvas.astype(np.uint8))
        classes.append(labels)
    return np.array(images), classes


@pytest.mark.parametrize("resample", ["nearest", "bicubic"])
def test_scenes_equal_an_independent_oracle(resample, digits):
    splits = pyro_multi_mnist(digits, resample=resample, num_scenes=600)
    images, classes = oracle(digits, 600, 681307, Image.Resampling[resample.upper()])
    assert (len(splits.train), len(splits.held_out)) == (500, 100)
    for scenes, part in ((splits.train, slice(500)), (splits.held_out, slice(500, None))):
        assert np.array_equal(scenes.images[:, 0].numpy(), images[part])
        ours = [row[row >= 0].tolist() for row in scenes.classes]
        assert ours == classes[part]
        assert scenes.num_objects.tolist() == [len(labels) for labels in classes[part]]


def test_scenes_equal_pyros(digits):
    pyro = pytest.importorskip("pyro.contrib.examples.multi_mnist", reason="pyro is not installed")
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(681307)  # noqa: NPY002
    try:
        source = {"digits": digits.images, "labels": torch.from_numpy(digits.labels)}
        images, classes = pyro.mk_dataset(600, source, 2, 50)
    finally:
        np.random.set_state(state)  # noqa: NPY002
    splits = pyro_multi_mnist(digits, resample="bicubic", num_scenes=600)
    assert np.array_equal(splits.train.images[:, 0].numpy(), images[:500])
    assert np.array_equal(splits.held_out.images[:, 0].numpy(), images[500:])
    assert [row[row >= 0].tolist() for row in splits.train.classes] == list(classes[:500])


def test_global_random_state_is_left_alone(digits):
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    multi_mnist(digits, num_train=5, num_held_out=5)
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@needs_mnist
def test_known_pixel_sum_of_full_mnist(tmp_path):
    splits = pyro_multi_mnist(full_mnist(MNIST_ROOT, data_root=tmp_path))
    assert splits.pixel_sum == 883_114_919 == DATASETS["multi-mnist-pyro"].pixel_sum
    assert (len(splits.train), len(splits.held_out)) == (50_000, 10_000)


@needs_mnist
@pytest.mark.slow
def test_known_pixel_sum_of_full_mnist_bicubic(tmp_path):
    splits = pyro_multi_mnist(full_mnist(MNIST_ROOT, data_root=tmp_path), resample="bicubic")
    assert splits.pixel_sum == 894_575_454 == DATASETS["multi-mnist-pyro-bicubic"].pixel_sum


def test_known_pixels_of_the_embedded_set(small):
    # Golden values: they change only if the data set does, and then results do not compare.
    # The registry holds the sum of the whole set, which load_dataset checks at each use.
    assert small.train.sha256.startswith("896e3c915ff37573")
    assert small.held_out.sha256.startswith("1ad43396244bed19")


def test_known_pixel_sum_of_the_embedded_set(digits):
    splits = multi_mnist(digits)
    assert splits.pixel_sum == DATASETS["multi-mnist"].pixel_sum
    assert (len(splits.train), len(splits.held_out)) == (50_000, 10_000)


def test_unknown_resampling_is_refused(digits):
    with pytest.raises(ValueError, match=r"unknown resample 'lanczos'.*nearest, bicubic"):
        pyro_multi_mnist(digits, resample="lanczos", num_scenes=6)


def test_too_few_scenes_or_digits_are_refused(digits):
    with pytest.raises(ValueError, match="at least 1 scene"):
        multi_mnist(digits, num_train=0, num_held_out=5)
    with pytest.raises(ValueError, match="at least 2 digits"):
        multi_mnist(digits[:1], num_train=5, num_held_out=5)


def test_halves_draw_on_different_digits(digits):
    train, held_out = split_digits(digits)
    assert (len(train), len(held_out)) == (8_000, 2_000)
    seen = {image.tobytes() for image in train.images}
    assert not any(image.tobytes() in seen for image in held_out.images)


def test_scenes_are_made_of_their_own_half_only():
    # Digits whose grey value tells which one they are, and so does every pixel of a scene.
    grey = np.arange(1, 101, dtype=np.uint8)
    digits = Digits(
        images=np.broadcast_to(grey[:, None, None], (100, 28, 28)).copy(),
        labels=np.zeros(100, np.int64),
    )
    splits = multi_mnist(digits, num_train=400, num_held_out=200)

    def grey_values(scenes):
        return set(scenes[scenes.num_objects == 1].images.unique().tolist()) - {0}

    halves = [set(half.images.reshape(-1).tolist()) for half in split_digits(digits)]
    assert halves[0] | halves[1] == set(range(1, 101))
    assert not halves[0] & halves[1]
    for half, scenes in zip(halves, (splits.train, splits.held_out), strict=True):
        assert len(grey_values(scenes)) > 10
        assert grey_values(scenes) <= half


def test_seed_decides_on_everything(digits, small):
    again = multi_mnist(digits, num_train=300, num_held_out=100)
    other = multi_mnist(digits, num_train=300, num_held_out=100, seed=1)
    assert again.sha256 == small.sha256 != other.sha256


def test_first_scenes_do_not_depend_on_how_many_follow(digits, small):
    fewer = multi_mnist(digits, num_train=50, num_held_out=20)
    assert fewer.train.sha256 == small.train[:50].sha256
    assert fewer.held_out.sha256 == small.held_out[:20].sha256


def test_counts_are_uniform(digits):
    counts = multi_mnist(digits, num_train=3000, num_held_out=1).train.num_objects.bincount()
    assert len(counts) == 3
    assert all(900 < count < 1100 for count in counts.tolist())  # 4 standard deviations


@pytest.mark.parametrize("counts", [(0, 1, 3), (2,), (3,)])
def test_only_the_counts_asked_for_occur_each_alike(counts, digits):
    splits = multi_mnist(digits, counts=counts, name="some", num_train=300, num_held_out=5)
    scenes = splits.train
    assert (splits.name, scenes.name) == ("some", "some/train")
    assert scenes.max_count == max(counts)
    found = torch.bincount(scenes.num_objects, minlength=4)
    assert sorted(found.nonzero().squeeze(1).tolist()) == list(counts)
    assert all(abs(found[count] - 300 / len(counts)) < 40 for count in counts)
    # Digits do not overlap, and each has its box.
    assert scenes.boxes.isfinite().all(dim=-1).sum(dim=1).equal(scenes.num_objects)


@pytest.mark.parametrize("counts", [(), (1, -1)])
def test_counts_that_make_no_sense_are_refused(counts, digits):
    with pytest.raises(ValueError, match="counts of at least 0"):
        multi_mnist(digits, counts=counts, num_train=5, num_held_out=5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multi-mnist-0-1-3", "multi-mnist-2", "multi-mnist-3"])
def test_known_pixel_sums_of_other_counts(name, digits):
    assert DATASETS[name].make(digits, False).pixel_sum == DATASETS[name].pixel_sum


@pytest.mark.parametrize("resample", ["nearest", "bicubic"])
def test_box_of_a_lone_digit_is_the_extent_of_its_pixels(resample, digits):
    scenes = pyro_multi_mnist(digits, resample=resample, num_scenes=600).train
    lone = scenes[scenes.num_objects == 1]
    assert len(lone) > 100
    for image, boxes in zip(lone.images, lone.boxes, strict=True):
        y, x = image[0].nonzero(as_tuple=True)
        extent = [int(x.min()), int(y.min()), int(x.max()) + 1, int(y.max()) + 1]
        assert boxes[0].tolist() == extent
        assert boxes[1].isnan().all()


def test_boxes_cover_all_pixels(small):
    scenes = small.train
    for image, boxes, count in zip(scenes.images, scenes.boxes, scenes.num_objects, strict=True):
        uncovered = image[0].clone()
        for x_min, y_min, x_max, y_max in boxes[: int(count)].long().tolist():
            assert uncovered.shape[1] >= x_max > x_min >= 0
            assert uncovered.shape[0] >= y_max > y_min >= 0
            uncovered[y_min:y_max, x_min:x_max] = 0
        assert uncovered.sum() == 0


# The registry


def test_names_and_settings():
    most = {
        "multi-mnist": 2,
        "multi-mnist-pyro": 2,
        "multi-mnist-pyro-bicubic": 2,
        "multi-mnist-0-1-3": 3,
        "multi-mnist-2": 2,
        "multi-mnist-3": 3,
        "multi-mnist-small": 2,
        "multi-mnist-small-9-18": 2,
        "multi-dsprites": 2,
        "multi-dsprites-9-18": 2,
    }
    assert {name: spec.max_count for name, spec in DATASETS.items()} == most
    for name, spec in DATASETS.items():
        assert spec.name == name
        assert "\n" not in spec.description
        assert spec.channels == (3 if "dsprites" in name else 1)
        if "small" in name or "dsprites" in name:
            assert spec.canvas_size == (64, 64)
        else:  # results are known with these
            assert spec.canvas_size == (50, 50)
            assert (spec.z_where_mean, spec.z_where_sd) == ((3.0, 0.0, 0.0), (0.2, 1.15, 1.15))
    small = DATASETS["multi-mnist-small"]
    assert (small.z_where_mean, small.z_where_sd) == ((4.49, 0.0, 0.0), (0.2, 2.01, 2.01))


def test_unknown_name_is_refused(tmp_path):
    expected = "unknown data set 'dsprites'. Expected one of: multi-mnist, multi-mnist-pyro"
    with pytest.raises(ValueError, match=re.escape(expected)):
        load_dataset("dsprites", data_root=tmp_path)


def test_data_root_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("AIR_DATA_ROOT", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert default_data_root() == tmp_path / ".cache" / "air"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert default_data_root() == tmp_path / ".cache" / "air"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert default_data_root() == tmp_path / "xdg" / "air"
    monkeypatch.setenv("AIR_DATA_ROOT", "~/data")
    assert default_data_root() == tmp_path / "data"
    assert cache_path("multi-mnist").parent == tmp_path / "data"
    assert re.fullmatch(r"multi-mnist-v\d+\.npz", cache_path("multi-mnist").name)


def test_second_load_reads_the_cache(small_registry, monkeypatch, tmp_path, capsys):
    first = load_dataset("multi-mnist", data_root=tmp_path)
    monkeypatch.setattr(datasets, "embedded_digits", None)
    second = load_dataset("multi-mnist", data_root=str(tmp_path))
    assert first.sha256 == second.sha256
    assert (first.name, second.name) == ("multi-mnist", "multi-mnist")
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_cache_is_reported_and_remade(damage, small_registry, small, tmp_path, capsys):
    path = cache_path("multi-mnist", tmp_path)
    first = load_dataset("multi-mnist", data_root=tmp_path)
    damage(path, small)
    assert load_dataset("multi-mnist", data_root=tmp_path).sha256 == first.sha256
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"warning: .*multi-mnist-v.*made anew\.\n", err)
    assert load_splits(path).sha256 == first.sha256


def test_cache_of_another_data_set_is_not_used(small_registry, small, tmp_path, capsys):
    save_splits(small, cache_path("multi-mnist", tmp_path))
    assert len(load_dataset("multi-mnist", data_root=tmp_path).train) == 40
    assert "holds another data set" in capsys.readouterr().err


def test_cache_that_cannot_be_written_costs_a_warning_only(small_registry, tmp_path, capsys):
    (tmp_path / "file").write_text("in the way")
    assert len(load_dataset("multi-mnist", data_root=tmp_path / "file").train) == 40
    assert len(load_dataset("multi-mnist", data_root=tmp_path / "file" / "below").train) == 40
    assert re.fullmatch(r"(warning: .*cannot be cached.*\n){2}", capsys.readouterr().err)


@pytest.mark.parametrize("name", ["multi-mnist-pyro", "multi-mnist-pyro-bicubic"])
def test_without_full_mnist_the_embedded_set_is_used(
    name, small_registry, no_mnist, tmp_path, capsys
):
    splits = load_dataset(name, data_root=tmp_path)
    assert splits.name == "multi-mnist"
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert all(part in err for part in (name, "embedded multi-mnist", "--mnist-root"))
    assert not cache_path(name, tmp_path).exists()
    assert cache_path("multi-mnist", tmp_path).exists()


def test_given_folder_without_mnist_is_no_reason_to_use_another_set(
    small_registry, no_mnist, tmp_path
):
    with pytest.raises(FileNotFoundError, match="--mnist-root"):
        load_dataset("multi-mnist-pyro", data_root=tmp_path, mnist_root=tmp_path)


def test_digits_that_are_not_mnists_are_refused(small_registry, monkeypatch, tmp_path):
    spec = dataclasses.replace(DATASETS["multi-mnist"], pixel_sum=1)
    monkeypatch.setitem(DATASETS, "multi-mnist", spec)
    with pytest.raises(ValueError, match="pixel sum"):
        load_dataset("multi-mnist", data_root=tmp_path)
    assert not cache_path("multi-mnist", tmp_path).exists()
