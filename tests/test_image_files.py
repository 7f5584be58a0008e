import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from air.images import files
from air.images.files import are_paths, find_images, read_image


@pytest.fixture
def folder(tmp_path):
    for name in ("b.png", "a.PNG", "c.jpg", "notes.txt", ".hidden.png"):
        if name.endswith("txt"):
            (tmp_path / name).write_text("mine")
        else:
            Image.new("L", (6, 4), 200).save(tmp_path / name, "PNG")
    (tmp_path / "deeper.png").mkdir()
    return tmp_path


def test_a_folder_is_searched_in_order(folder):
    assert [path.name for path in find_images(folder)] == ["a.PNG", "b.png", "c.jpg"]
    assert [path.name for path in find_images([folder / "c.jpg", str(folder)])][:2] == [
        "c.jpg",
        "a.PNG",
    ]
    assert [tuple(read_image(path).shape) for path in find_images(folder)] == [(1, 4, 6)] * 3


def test_what_does_not_exist_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        find_images(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"no image was found in .*\.png"):
        find_images(tmp_path)
    with pytest.raises(FileNotFoundError, match="is not a file"):
        read_image(tmp_path)


@pytest.mark.parametrize(
    ("mode", "color", "shape", "dtype", "value"),
    [
        ("L", 200, (1, 4, 6), torch.uint8, [200]),
        ("1", 1, (1, 4, 6), torch.uint8, [255]),
        ("RGB", (1, 2, 3), (3, 4, 6), torch.uint8, [1, 2, 3]),
        ("RGBA", (1, 2, 3, 255), (3, 4, 6), torch.uint8, [1, 2, 3]),
        ("RGBA", (1, 2, 3, 51), (3, 4, 6), torch.uint8, [204, 204, 205]),  # on white
        ("LA", (200, 51), (3, 4, 6), torch.uint8, [40, 40, 40]),
        ("I;16", 40000, (1, 4, 6), torch.uint16, [40000]),
    ],
)
def test_kinds_of_pixels(mode, color, shape, dtype, value, tmp_path):
    Image.new(mode, (6, 4), color).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert tuple(image.shape) == shape
    assert image.dtype == dtype
    assert image[:, 1, 1].tolist() == value


def test_a_palette_is_read_as_its_colors(tmp_path):
    array = np.zeros((4, 6, 3), np.uint8)
    array[1, 2] = (10, 20, 30)
    Image.fromarray(array).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, 1, 2].tolist() == [10, 20, 30]


def test_files_that_are_no_images_are_refused(tmp_path, monkeypatch):
    Image.new("L", (60, 40)).save(tmp_path / "good.png")
    content = (tmp_path / "good.png").read_bytes()
    for name, bad in (("cut", content[:50]), ("text", b"hello"), ("empty", b"")):
        (tmp_path / f"{name}.png").write_bytes(bad)
        with pytest.raises(ValueError, match=f"{name}.png cannot be read as an image"):
            read_image(tmp_path / f"{name}.png")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tiff")
    assert read_image(tmp_path / "float.tiff").dtype == torch.float32
    Image.fromarray(np.full((4, 4), np.nan, np.float32)).save(tmp_path / "nan.tiff")
    with pytest.raises(ValueError, match="holds NaN"):
        read_image(tmp_path / "nan.tiff")
    monkeypatch.setattr(files, "_MOST_PIXELS", 2399)
    with pytest.raises(ValueError, match="60 x 40 pixels are too many"):
        read_image(tmp_path / "good.png")


def test_kinds_of_files_that_could_run_programs_are_refused(tmp_path):
    Image.new("RGB", (6, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize(
    ("orientation", "corner"),  # where the first pixel is seen: row, column
    list(
        enumerate([(0, 0), (0, -1), (-1, -1), (-1, 0), (0, 0), (0, -1), (-1, -1), (-1, 0)], start=1)
    ),
)
def test_photographs_are_turned_as_they_were_taken(orientation, corner, tmp_path):
    array = np.zeros((4, 6), np.uint8)
    array[0, 0] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(array).save(tmp_path / "a.png", exif=exif)
    image = read_image(tmp_path / "a.png")[0]
    assert tuple(image.shape) == ((6, 4) if 5 <= orientation <= 8 else (4, 6))
    assert image[corner] == 255


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ("a", True),
        (Path("a"), True),
        ([Path("a"), "b"], True),
        ([], False),
        ([torch.zeros(1)], False),
        (torch.zeros(1), False),
    ],
)
def test_paths_are_told_from_images(images, expected):
    assert are_paths(images) is expected


def test_without_pillow_it_is_said_what_to_install():
    code = (
        "import sys; sys.modules['PIL'] = None\n"
        "from air.images import read_image\n"
        "try: read_image(__file__)\n"
        "except ImportError as error: print(error)"
    )
    code = code.replace("__file__", repr(__file__))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=".")
    assert "pip install pillow" in result.stdout
