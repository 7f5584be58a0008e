"""People's own images: what is read, how sizes are made equal, what is known about them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from air.images import read_image as read_by_predict
from experiments.datasets import as_scenes, split_scenes
from experiments.datasets.folder import load_folder, parse_folder
from experiments.datasets.image_files import read_image, read_size, to_pictures
from experiments.datasets.image_labels import read_coco, read_counts
from experiments.datasets.multiobject import write_multiobject
from experiments.datasets.scenes import DataSplits, save_splits
from experiments.datasets.sources import check_dataset, folder_name, open_dataset
from experiments.files import DamagedFileError
from tests.conftest import make_scenes

GREY = np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5
COLOR = np.stack([GREY, GREY // 2, 255 - GREY], axis=-1)


@pytest.fixture
def folder(tmp_path):
    """Nine grey images of 12x10, 10x16 and 8x8, each black but for a square of 4x4."""
    path = tmp_path / "mine"
    path.mkdir()
    for i in range(9):
        height, width = ((12, 10), (10, 16), (8, 8))[i % 3]
        pixels = np.zeros((height, width), np.uint8)
        pixels[2:6, 1:5] = 20 * i + 50
        Image.fromarray(pixels).save(path / f"{i}.{('png', 'tif', 'png')[i % 3]}")
    return path


def load(path, settings=""):
    splits = load_folder(parse_folder(f"folder:{path}{settings}"))
    order = torch.cat([splits.train.images, splits.held_out.images]).amax(dim=(1, 2, 3)).argsort()
    return splits, order


# Pictures in files


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff"])
@pytest.mark.parametrize("pixels", [GREY, COLOR], ids=["grey", "colour"])
def test_pixels_come_back(suffix, pixels, tmp_path):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(pixels).save(path)
    assert np.array_equal(read_image(path), pixels)
    assert read_size(path) == (6, 8)


def test_jpegs_come_back_nearly_and_smaller_where_asked(tmp_path):
    path = tmp_path / "a.jpg"
    smooth = np.tile(np.linspace(0, 255, 160).astype(np.uint8), (80, 1))
    Image.fromarray(smooth).save(path, quality=95)
    assert abs(read_image(path).astype(int) - smooth).max() < 5
    small = read_image(path, (10, 20))
    expected = smooth.reshape(10, 8, 20, 8).mean(axis=(1, 3))
    assert abs(small - expected).max() < 5


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY > 100), np.where(GREY > 100, 255, 0)),
        (Image.fromarray(GREY.astype(np.uint16) * 257), GREY),
        (Image.fromarray(np.stack([GREY] * 3, axis=-1)), GREY),
        (Image.fromarray(np.dstack([COLOR, np.full_like(GREY, 255)])), COLOR),
        (Image.fromarray(np.dstack([COLOR, np.zeros_like(GREY)])), np.zeros_like(GREY)),
        (Image.fromarray(GREY).convert("P"), GREY),
    ],
    ids=["bits", "16 bits", "grey as RGB", "opaque", "transparent", "palette"],
)
def test_other_kinds_of_pixels_become_bytes(image, expected, tmp_path):
    image.save(tmp_path / "a.png")
    assert np.array_equal(read_image(tmp_path / "a.png"), expected)


def test_transparent_parts_are_what_predict_makes_of_them(tmp_path):
    black_on_nothing = np.zeros((6, 8, 4), np.uint8)
    black_on_nothing[2:4, 2:5, 3] = 255
    Image.fromarray(black_on_nothing).save(tmp_path / "a.png")
    seen = read_image(tmp_path / "a.png")
    assert np.array_equal(seen, read_by_predict(tmp_path / "a.png")[0].numpy())
    assert (seen == 0).sum() == 6  # on white
    assert not read_image(tmp_path / "a.png", on_black=True).any()


def test_pictures_are_turned_as_their_camera_says(tmp_path):
    image = Image.fromarray(GREY)
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned to the right
    image.save(tmp_path / "a.png", exif=exif)
    assert read_size(tmp_path / "a.png") == (8, 6)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(GREY, -1))


def test_a_bomb_is_refused_before_it_goes_off(tmp_path, monkeypatch):
    path = tmp_path / "bomb.png"
    Image.new("1", (8_000, 8_000)).save(path)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(Image.Image, "load", None)
    for read in (read_image, read_size):
        with pytest.raises(DamagedFileError, match=r"bomb\.png.*8000 x 8000"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"II*\0"])
def test_what_is_no_picture_is_refused(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"a\.png is no picture"):
        read_size(tmp_path / "a.png")


def test_cut_pictures_are_refused(tmp_path):
    Image.fromarray(np.random.RandomState(0).randint(0, 255, (50, 50), np.uint8)).save(
        tmp_path / "a.png"
    )
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:900])
    assert read_size(tmp_path / "a.png") == (50, 50)
    with pytest.raises(DamagedFileError, match="damaged"):
        read_image(tmp_path / "a.png")


def test_several_pictures_in_one_file_and_unknown_whites_are_refused(tmp_path):
    pages = [Image.fromarray(GREY), Image.fromarray(GREY)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DamagedFileError, match="holds 2 pictures"):
        read_image(tmp_path / "a.tif")
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "b.tif")
    with pytest.raises(DamagedFileError, match="32 bits"):
        read_image(tmp_path / "b.tif")


# Arrays


@pytest.mark.parametrize(
    ("array", "shapes"),
    [
        (np.zeros((6, 8), np.uint8), [(6, 8)]),
        (np.zeros((6, 8, 3), np.uint8), [(6, 8)]),
        (np.zeros((3, 6, 8), np.uint8), [(6, 8)]),
        (np.zeros((5, 6, 8), np.uint8), [(6, 8)] * 5),
        (np.zeros((5, 6, 8, 1), np.uint8), [(6, 8)] * 5),
        (np.zeros((5, 1, 6, 8), np.uint8), [(6, 8)] * 5),
        (np.stack([COLOR] * 2), [(6, 8, 3)] * 2),
        (np.stack([COLOR] * 2).transpose(0, 3, 1, 2), [(6, 8, 3)] * 2),
    ],
    ids=str,
)
def test_pictures_are_found_in_arrays(array, shapes):
    found = to_pictures(array, "x")
    assert [picture.shape for picture in found] == shapes
    for picture in found:
        if picture.ndim == 3:
            assert np.array_equal(picture, COLOR)


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((4, 4), 0.5), 128),
        (np.full((4, 4), True), 255),
        (np.full((4, 4), 257 * 9, np.uint16), 9),
        (np.full((4, 4), 1.0, np.float16), 255),
    ],
    ids=["float", "bool", "uint16", "half"],
)
def test_other_numbers_become_bytes(array, value):
    assert (to_pictures(array, "x")[0] == value).all()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(4, np.uint8), r"must be \(H, W\)"),
        (np.zeros((2, 5, 6, 7), np.uint8), r"must be \(H, W\)"),
        (np.zeros((0, 6, 7), np.uint8), r"must be \(H, W\)"),
        (np.full((4, 4), 2.0), r"floats in \[0, 1\], got 2"),
        (np.full((4, 4), np.nan), "got nan"),
        (np.zeros((4, 4), np.int32), "got int32"),
    ],
    ids=str,
)
def test_arrays_of_anything_else_are_refused(array, message):
    with pytest.raises(ValueError, match=message):
        to_pictures(array, "x")


# Sizes


def test_images_are_put_in_the_middle_of_the_largest(folder):
    splits, order = load(folder)
    images = torch.cat([splits.train.images, splits.held_out.images])[order]
    assert images.shape == (9, 1, 12, 16)
    for i, image in enumerate(images[:, 0]):
        height, width = ((12, 10), (10, 16), (8, 8))[i % 3]
        top, left = (12 - height) // 2 + 2, (16 - width) // 2 + 1
        assert (image[top : top + 4, left : left + 4] == 20 * i + 50).all()
        assert image.sum() == 16 * (20 * i + 50)


def test_all_are_shrunk_by_one_factor():
    scenes = as_scenes([np.full((40, 20), 0.5), np.full((100, 80), 1.0)], max_size=50)
    assert scenes.images.shape == (2, 1, 50, 40)
    assert scenes.images.sum(dim=(1, 2, 3)).tolist() == [128 * 50 * 40, 255 * 50 * 40]
    small = np.zeros((40, 20))
    small[10:30, 5:15] = 1
    image = as_scenes([small, np.zeros((100, 80))], max_size=50).images[0, 0]
    assert int(image.sum()) == pytest.approx(255 * 10 * 5, rel=1e-3)
    assert (image[20:30, 18:22] == 255).all()


def test_none_is_enlarged(folder):
    assert load(folder, "?size=100")[0].train.images.shape[1:] == (1, 12, 16)
    assert load(folder, "?size=8")[0].train.images.shape[1:] == (1, 6, 8)


def test_the_surround_takes_the_edges_colour_and_black_and_white_change_places(tmp_path):
    page = np.full((10, 10, 3), (250, 240, 230), np.uint8)
    page[4:6, 4:6] = 0
    kept, inverted = (
        as_scenes([page, np.zeros((10, 14, 3), np.uint8)], invert=invert) for invert in (0, 1)
    )
    assert kept.images[0, :, 0, 0].tolist() == [250, 240, 230]
    assert inverted.images[0, :, 0, 0].tolist() == [5, 15, 25]
    assert inverted.images[0, :, 4, 6].tolist() == [255, 255, 255]


def test_one_coloured_image_makes_all_coloured():
    scenes = as_scenes([GREY, COLOR])
    assert scenes.images.shape == (2, 3, 6, 8)
    assert torch.equal(scenes.images[0], torch.from_numpy(GREY).expand(3, 6, 8))
    assert torch.equal(scenes.images[1], torch.from_numpy(COLOR).permute(2, 0, 1))


# Wrapped


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(5, 1, 9, 8),
        torch.rand(5, 9, 8),
        (torch.rand(5, 3, 9, 8) * 255).to(torch.uint8),
        np.zeros((5, 9, 8, 3), np.float32),
        [Image.new("L", (8, 9))] * 5,
        [Image.new("RGBA", (8, 9))] * 5,
        torch.rand(5, 9, 8, dtype=torch.bfloat16),
        [np.zeros((9, 8))] * 5,
        TensorDataset(torch.rand(5, 1, 9, 8), torch.arange(5)),
        TensorDataset(torch.rand(5, 9, 8)),
    ],
    ids=["tensor", "grey", "bytes", "array", "Pillow", "RGBA", "half", "arrays", "data set", "one"],
)
def test_anything_that_holds_images_is_wrapped(images):
    scenes = as_scenes(images)
    assert len(scenes) == 5
    assert scenes.images.shape[2:] == (9, 8)
    assert not scenes.is_counted
    assert scenes.masks is None
    first = images[0][0] if isinstance(images, TensorDataset) else images[0]
    if isinstance(first, torch.Tensor) and first.is_floating_point():
        expected = (first.float() * 255).round().to(torch.uint8).view(-1, 9, 8)
        assert torch.equal(scenes.images[0], expected)


def test_a_palette_of_pillows_is_looked_up():
    image = Image.new("P", (4, 3), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    assert as_scenes([image]).images[0, :, 0, 0].tolist() == [10, 20, 30]


def test_a_dataset_of_the_package_multiobject_is_wrapped(tmp_path):
    torch_multiobject = pytest.importorskip("multiobject.pytorch")
    splits = DataSplits(train=make_scenes(9), held_out=make_scenes(1, seed=1), name="tiny")
    write_multiobject(splits, tmp_path / "a.npz")
    dataset = torch_multiobject.MultiObjectDataset(tmp_path / "a.npz", train=True)
    scenes = as_scenes(dataset, num_objects=[int(dataset[i][1]["n_obj"]) for i in range(9)])
    assert torch.equal(scenes.images, splits.train.images)
    assert torch.equal(scenes.num_objects, splits.train.num_objects)


def test_labels_are_kept_and_boxes_moved_along():
    scenes = as_scenes(
        [np.zeros((20, 40)), np.zeros((40, 40))],
        boxes=[[(0, 0, 20, 10), (10, 5, 20, 20)], []],
        num_objects=torch.tensor([2, 0]),
        max_size=20,
    )
    assert scenes.is_counted
    assert scenes.num_objects.tolist() == [2, 0]
    assert scenes.boxes[0].tolist() == [[0, 5, 10, 10], [5, 7.5, 10, 15]]
    assert scenes.classes.tolist() == [[0, 0], [-1, -1]]
    for counts in ([3, 1], (3.0, 1.0), np.array([3, 1]), list(torch.tensor([3, 1]))):
        counted = as_scenes(torch.zeros(2, 5, 5), num_objects=counts)
        assert counted.num_objects.tolist() == [3, 1]
        assert counted.boxes.isnan().all()


def test_boxes_are_cut_at_the_edge_of_their_image():
    scenes = as_scenes(
        [np.zeros((10, 20)), np.zeros((20, 20))], boxes=[[(-5, 2, 4, 99), (18, -3, 21, 4)], []]
    )
    assert scenes.boxes[0].tolist() == [[0, 7, 4, 15], [18, 5, 20, 9]]


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([], {}, "holds no image"),
        (iter([np.zeros((5, 5))]), {}, "Make a list"),
        ({"image": np.zeros((5, 5))}, {}, "got dict"),
        ([{"image": np.zeros((5, 5))}], {}, "must be an image .* got dict"),
        ([Image.new("I", (5, 5))], {}, "32 bits"),
        (["text"], {}, "must be an image"),
        (torch.zeros(4, 4), {}, "must be a batch"),
        ([np.zeros((5, 9, 8))], {}, "must be one image"),
        (torch.zeros(2, 5, 5), {"num_objects": [1]}, "one entry for each of 2"),
        (torch.zeros(2, 5, 5), {"num_objects": 2}, "one entry for each of 2"),
        (torch.zeros(2, 5, 5), {"num_objects": torch.tensor(2)}, "one entry for each of 2"),
        (torch.zeros(2, 5, 5), {"num_objects": [1, -4]}, "said to hold -4"),
        (torch.zeros(2, 5, 5), {"num_objects": [1, 1.5]}, r"images\[1\] is said to hold 1\.5"),
        (torch.zeros(2, 5, 5), {"num_objects": [1, np.nan]}, "said to hold nan"),
        (torch.zeros(2, 5, 5), {"num_objects": ["1", 2]}, "said to hold '1'"),
        (torch.zeros(2, 5, 5), {"num_objects": [10**12, 2]}, "from 0 to 1000"),
        (torch.zeros(1, 5, 5), {"boxes": [[(1, 2, 3)]]}, "must be four numbers"),
        (torch.zeros(1, 5, 5), {"boxes": [[(1, 2, 3, np.nan)]]}, "holds nothing"),
        (torch.zeros(1, 5, 5), {"boxes": [[(3, 3, 1, 4)]]}, "holds nothing"),
        (torch.zeros(1, 5, 5), {"boxes": [[(5, 0, 9, 4)]]}, r"holds nothing of its 5 x 5"),
        (torch.zeros(1, 5, 5), {"num_objects": [2], "boxes": [[]]}, "2 objects, but has 0"),
        (torch.zeros(2, 5, 5), {"max_size": 3}, "at least 8"),
    ],
    ids=str,
)
def test_what_cannot_be_wrapped_is_refused(images, labels, message):
    with pytest.raises(ValueError, match=message):
        as_scenes(images, **labels)


def test_halves_are_drawn_at_random_and_keep_all():
    images = torch.arange(50, dtype=torch.uint8).view(50, 1, 1).expand(50, 8, 8)
    splits = split_scenes(as_scenes(images), name="x", share=0.2)
    train, held_out = (half.images[:, 0, 0, 0].tolist() for half in (splits.train, splits.held_out))
    assert len(held_out) == 10
    assert sorted(train + held_out) == list(range(50))
    assert held_out == sorted(held_out) != list(range(40, 50))
    again = split_scenes(as_scenes(images), share=0.2)
    assert torch.equal(again.held_out.images, splits.held_out.images)
    assert len(split_scenes(as_scenes(images[:2])).train) == 1
    with pytest.raises(ValueError, match="at least 2"):
        split_scenes(as_scenes(images[:1]))
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_scenes(as_scenes(images), share=1.0)


# Labels


def test_counts_are_read(folder):
    lines = ["file,count", *(f"{p.name},{int(p.stem) % 4}" for p in sorted(folder.iterdir()))]
    (folder / "counts.csv").write_text("\n".join(lines))
    splits, order = load(folder)
    counts = torch.cat([splits.train.num_objects, splits.held_out.num_objects])[order]
    assert counts.tolist() == [i % 4 for i in range(9)]
    assert splits.train.is_counted


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png,1\n", "must begin with the line: file,count"),
        ("file,count\na.png,1\n", r"nothing about 1 of 2 pictures, 'b\.png'"),
        ("file,count\na.png,one\n", "line 2"),
        ("file,count\na.png,-1\n", "line 2"),
        ("file,count\na.png,99999\n", "at most 1000"),
        ("file,count\na.png,1\na.png,2\n", "again"),
        ("file,count\na.png\n", "line 2"),
        ('file,count\n"a.png,1\n', "no table"),
        ("file,count\na.png,\xb2\n", "line 2"),
    ],
)
def test_tables_that_lie_are_refused(text, message, tmp_path):
    (tmp_path / "counts.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DamagedFileError, match=message):
        read_counts(tmp_path / "counts.csv", ["a.png", "b.png"])


def coco(*annotations, files=("a.png", "b.png")):
    return {
        "images": [{"id": 7 + i, "file_name": name} for i, name in enumerate(files)],
        "annotations": [
            {"image_id": image, "bbox": box, "category_id": category, **more}
            for image, box, category, more in annotations
        ],
    }


def test_boxes_of_coco_are_read(tmp_path):
    content = coco(
        (7, [1, 2, 4, 6], 90, {}), (7, [0, 0, 2.5, 2], 3, {}), (8, [0, 0, 9, 9], 3, {"iscrowd": 1})
    )
    (tmp_path / "a.json").write_text(json.dumps(content))
    labels = read_coco(tmp_path / "a.json", ["a.png", "b.png"])
    assert (labels["a.png"].count, labels["b.png"].count) == (2, 0)
    assert labels["a.png"].boxes == ((1, 2, 5, 8), (0, 0, 2.5, 2))
    assert labels["a.png"].classes == (1, 0)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"images": 3, "annotations": []},
        coco((9, [0, 0, 1, 1], 1, {})),
        coco((7, [0, 0, 0, 1], 1, {})),
        coco((7, [0, 0, 1e300, 1], 1, {})),
        coco((7, [0, 0, 1], 1, {})),
        coco((7, ["0", 0, 1, 1], 1, {})),
        coco((7, [0, 0, 1, 1], "cat", {})),
        coco(*[(7, [0, 0, 1, 1], 1, {})] * 1001),
        coco(files=("a.png",)),
    ],
    ids=lambda value: str(value)[:60],
)
def test_annotations_that_lie_are_refused(content, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DamagedFileError, match=r"a\.json"):
        read_coco(tmp_path / "a.json", ["a.png", "b.png"])


def test_boxes_beside_a_folders_images(folder):
    names = [path.name for path in sorted(folder.iterdir())]
    content = coco(*[(7 + i, [1, 2, 4, 4], 5, {}) for i in range(9)], files=names)
    (folder / "boxes.json").write_text(json.dumps(content))
    splits, _ = load(folder)
    for half in (splits.train, splits.held_out):
        assert half.num_objects.tolist() == [1] * len(half)
        for image, box in zip(half.images[:, 0], half.boxes[:, 0].long().tolist(), strict=True):
            x_min, y_min, x_max, y_max = box
            assert (image[y_min:y_max, x_min:x_max] > 0).all()
            assert (image > 0).sum() == 16
    rows = "".join(f"{name},{1 + (name == names[3])}\n" for name in names)
    (folder / "counts.csv").write_text("file,count\n" + rows)
    with pytest.raises(DamagedFileError, match=rf"2 objects in {names[3]}.*says 1"):
        load(folder)


# Folders and files


def test_arrays_in_a_folder_and_by_themselves(tmp_path):
    np.save(tmp_path / "a.npy", np.full((5, 9, 8), 7, np.uint8))
    np.save(tmp_path / "b.npy", np.full((9, 8), 1.0))
    splits, _ = load(tmp_path)
    corners = torch.cat([splits.train.images, splits.held_out.images])[:, 0, 0, 0]
    assert corners.sort().values.tolist() == [7] * 5 + [255]
    assert len(load(tmp_path / "a.npy", "?held_out=0.4")[0].held_out) == 2


def test_archives_of_arrays(tmp_path):
    images = np.zeros((10, 9, 8), np.uint8)
    np.savez(tmp_path / "one.npz", anything=images)
    assert not load(tmp_path / "one.npz")[0].train.is_counted
    np.savez(tmp_path / "two.npz", images=images, num_objects=np.arange(10) % 3)
    splits, _ = load(tmp_path / "two.npz")
    counts = torch.cat([splits.train.num_objects, splits.held_out.num_objects])
    assert counts.bincount().tolist() == [4, 3, 3]
    np.savez(tmp_path / "bad.npz", images=images, num_objects=np.zeros(9, np.int64))
    with pytest.raises(DamagedFileError, match="10 whole numbers"):
        load(tmp_path / "bad.npz")
    np.savez(tmp_path / "many.npz", images=images, num_objects=np.full(10, 1 << 62))
    with pytest.raises(ValueError, match=r"many\.npz\[0\] is said to hold"):
        load(tmp_path / "many.npz")
    np.savez(tmp_path / "odd.npz", images=images, more=images)
    with pytest.raises(DamagedFileError, match="one array of images"):
        load(tmp_path / "odd.npz")
    np.savez(tmp_path / "pickle.npz", images=np.array({"a": 1}, dtype=object))
    with pytest.raises(DamagedFileError, match="plain numbers"):
        load(tmp_path / "pickle.npz")


def test_our_own_files_are_taken_as_they_are(tmp_path):
    splits = DataSplits(train=make_scenes(9), held_out=make_scenes(3, seed=1), name="tiny")
    save_splits(splits, tmp_path / "mine.npz")
    found = load_folder(parse_folder(f"folder:{tmp_path / 'mine.npz'}"))
    assert found.sha256 == splits.sha256
    assert torch.equal(found.train.classes, splits.train.classes)


def test_files_of_multiobject_are_written_and_read(tmp_path):
    splits = DataSplits(train=make_scenes(18), held_out=make_scenes(2, seed=1), name="tiny")
    write_multiobject(splits, tmp_path / "file.npz")
    found = load_folder(parse_folder(f"folder:{tmp_path / 'file.npz'}"))
    for ours, theirs in ((splits.train, found.train), (splits.held_out, found.held_out)):
        assert torch.equal(ours.images, theirs.images)
        assert torch.equal(ours.num_objects, theirs.num_objects)
        assert torch.equal(ours.classes, theirs.classes)
        assert theirs.boxes.isnan().all()


def test_multiobject_reads_what_we_write(tmp_path):
    torch_multiobject = pytest.importorskip("multiobject.pytorch")
    splits = DataSplits(train=make_scenes(18), held_out=make_scenes(2, seed=1), name="tiny")
    write_multiobject(splits, tmp_path / "file.npz")
    for train, half in ((True, splits.train), (False, splits.held_out)):
        dataset = torch_multiobject.MultiObjectDataset(tmp_path / "file.npz", train)
        assert len(dataset) == len(half)
        loader = torch_multiobject.MultiObjectDataLoader(dataset, batch_size=len(half))
        images, labels = next(iter(loader))
        assert torch.equal((images * 255).round().to(torch.uint8), half.images)
        assert torch.equal(labels["n_obj"], half.num_objects)
        most = int(half.num_objects.max())
        torch.testing.assert_close(labels["boxes"], half.boxes[:, :most], equal_nan=True)
        assert torch.equal(labels["classes"].nan_to_num(-1).long(), half.classes[:, :most])
    with pytest.raises(ValueError, match="no numbers of objects"):
        write_multiobject(split_scenes(as_scenes(torch.zeros(3, 8, 8))), tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("?size=4", "size must lie between 8"),
        ("?size=big", "size of folder: cannot be 'big'"),
        ("?invert=maybe", "invert of folder: cannot be 'maybe'"),
        ("?held_out=1", "held_out must lie"),
        ("?colour=red", "unknown setting 'colour'.*size, invert, held_out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message, folder):
    with pytest.raises(ValueError, match=message):
        parse_folder(f"folder:{folder}{settings}")


def test_places_without_images_are_refused(tmp_path):
    for path, message in (
        (tmp_path / "none", "does not exist"),
        (tmp_path, "holds no image"),
        (tmp_path / "a.txt", "Give the folder"),
    ):
        if path.suffix:
            path.write_text("x")
        with pytest.raises(FileNotFoundError, match=message):
            check_dataset(f"folder:{path}")
    with pytest.raises(ValueError, match="needs a path"):
        check_dataset("folder:")


def test_a_question_mark_in_a_folders_name_is_part_of_it(folder):
    folder.rename(folder.parent / "what?size=9")
    assert parse_folder(f"folder:{folder.parent}/what?size=9").size == 64
    assert parse_folder(f"folder:{folder.parent}/what?size=9?size=12").size == 12


def test_what_was_read_is_cached_until_a_file_changes(folder, tmp_path, monkeypatch, capsys):
    root = tmp_path / "data"
    name = f"folder:{folder}"
    first = open_dataset(name, data_root=root, progress=False)
    assert first.name == f"folder:{folder.resolve()}"
    assert folder_name(name) == "folder-mine"
    with monkeypatch.context() as patch:
        patch.setattr("experiments.datasets.load_folder", None)
        assert open_dataset(name, data_root=root, progress=False).sha256 == first.sha256
    Image.fromarray(np.full((9, 9), 9, np.uint8)).save(folder / "new.png")
    assert len(open_dataset(name, data_root=root, progress=False).train) == 9
    assert capsys.readouterr() == ("", "")


def test_what_becomes_of_the_sizes_is_told(folder, tmp_path, capsys):
    open_dataset(f"folder:{folder}?size=8", data_root=tmp_path / "data")
    told = "9 images of 8 x 8 to 12 x 16 pixels (height x width) are "
    assert f"{told}shrunk to 0.5 of their size and padded to 6 x 8" in capsys.readouterr().err
    open_dataset(f"folder:{folder}", data_root=tmp_path / "data")
    assert f"{told}padded to 12 x 16" in capsys.readouterr().err
