"""What a model sees in images, in the images' own pixels, and in the formats of other tools."""

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from air.files import write_new
from air.images import Frame, Skipped, displayed, open_pillow, read_image, to_channels
from air.visualization import draw_boxes, image_grid, to_uint8

__all__ = ["Detections", "Predictions"]

_SIDE = 160
"""Pictures are enlarged until they have about so many pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Detections:
    """The objects that a model sees in one image, in the order in which it saw them."""

    boxes: Tensor
    """``(x_min, y_min, x_max, y_max)`` in pixels of the original image, edges: ``(n, 4)``."""
    scores: Tensor
    """Probability that the object is there, P(n >= t | x): ``(n,)``."""
    count_probs: Tensor
    """q(n | x) for n = 0 .. T: ``(T + 1,)``."""
    z_what: Tensor
    """Mean appearance: ``(n, D)``."""
    z_where: Tensor
    """Mean pose ``(s, x, y)`` on the canvas: ``(n, 3)``."""
    lit_by: Tensor
    """Which object lights a pixel of the canvas, from 1; 0 for none: int16 ``(H, W)``."""
    frame: Frame
    """Where the image lies on the canvas."""
    source: Tensor | Path
    """The original image ``(C, h, w)``, or the file that it was read from."""
    name: str | None = None
    """What to call the file: relative to the folder that was given, with the page of a stack."""
    page: int = 0
    """Which image of the file."""
    doubt: str = ""
    """In what the image differs from those the model was trained on."""

    def __len__(self) -> int:
        """Number of objects."""
        return len(self.boxes)

    def __repr__(self) -> str:
        name = f"{self.file}: " if self.file else ""
        return f"Detections({name}{self.count} objects, scores {self.scores.tolist()})"

    @property
    def count(self) -> int:
        """Most probable number of objects, n."""
        return len(self.boxes)

    @property
    def labels(self) -> Tensor:
        """Class of each object: all 0, since AIR knows no classes. int64 ``(n,)``."""
        return torch.zeros(len(self), dtype=torch.int64)

    @property
    def mask(self) -> Tensor:
        """Pixels of the original image that each object lights: bool ``(n, h, w)``.

        Made when asked for, by nearest pixel from the canvas. A pixel that several objects
        light is the brightest one's.
        """
        lit_by = self.frame.map_in_image(self.lit_by)
        return lit_by == torch.arange(1, len(self) + 1)[:, None, None]

    @property
    def image(self) -> Tensor:
        """The original image ``(C, h, w)``; read again if it came from a file."""
        return (
            self.source if isinstance(self.source, Tensor) else read_image(self.source, self.page)
        )

    @property
    def file(self) -> str | None:
        """Name of the file that the image was read from."""
        return None if isinstance(self.source, Tensor) else self.name or self.source.name

    def to_dict(self, *, masks: bool = True) -> dict[str, Tensor]:
        """``boxes``, ``scores``, ``labels`` and, unless they are unwanted, ``masks``.

        What ``torchmetrics.detection.MeanAveragePrecision`` takes; without masks, of which it
        expects another shape, also ``supervision.Detections.from_transformers``.
        """
        form = {"boxes": self.boxes, "scores": self.scores, "labels": self.labels}
        return form | {"masks": self.mask} if masks else form

    def draw(self, *, scale: int | None = None) -> Any:
        """The image with its boxes, as a ``PIL.Image.Image``.

        Args:
            scale: how many times to enlarge it; default: until it is well seen.

        Raises:
            ImportError: if Pillow is not installed.
        """
        return open_pillow().fromarray(to_uint8(self.picture(scale)).numpy())

    def picture(self, scale: int | None = None) -> Tensor:
        """:meth:`draw` as a tensor: float in [0, 1], ``(3, scale * h, scale * w)``."""
        image = to_channels(displayed(self.image.detach().cpu()), 3)[None]
        if scale is None:
            scale = max(1, round(_SIDE / max(image.shape[-2:])))
        count = torch.tensor([len(self)])
        boxes = self.boxes.new_zeros(1, max(len(self), 1), 4)
        boxes[0, : len(self)] = self.boxes
        return draw_boxes(image, boxes, count, scale=scale)[0]

    def to_record(self) -> dict[str, Any]:
        """All but the pixels, as plain data."""
        height, width = self.frame.height, self.frame.width
        objects = zip(self.boxes.tolist(), self.scores.tolist(), self.z_what.tolist(), strict=True)
        return {
            "file": self.file,
            "height": height,
            "width": width,
            "count": self.count,
            "count_probs": _rounded(self.count_probs.tolist(), 6),
            "objects": [
                {"box": _rounded(box, 3), "score": round(score, 6), "z_what": _rounded(what, 5)}
                for box, score, what in objects
            ],
        }


class Predictions(Sequence[Detections]):
    """What a model sees in several images: a sequence of :class:`Detections`.

    Args:
        detections: of each image.
        skipped: files that could not be read.
    """

    def __init__(self, detections: Iterable[Detections], skipped: Sequence[Skipped] = ()) -> None:
        self._detections = list(detections)
        self.skipped = list(skipped)

    def __len__(self) -> int:
        """Number of images."""
        return len(self._detections)

    def __iter__(self) -> Iterator[Detections]:
        """Image by image."""
        return iter(self._detections)

    @overload
    def __getitem__(self, index: int) -> Detections: ...
    @overload
    def __getitem__(self, index: slice) -> "Predictions": ...
    def __getitem__(self, index: int | slice) -> "Detections | Predictions":
        """One image's, or those of some images."""
        if isinstance(index, slice):
            return Predictions(self._detections[index])
        return self._detections[index]

    def __repr__(self) -> str:
        objects = sum(map(len, self))
        return f"Predictions({len(self)} images, {objects} objects)"

    @property
    def counts(self) -> Tensor:
        """Most probable number of objects of each image: int64 ``(B,)``."""
        return torch.tensor([detections.count for detections in self], dtype=torch.int64)

    @property
    def files(self) -> list[str | None]:
        """Names of the files that the images were read from, None for those that were not.

        Where two files have one name, as in two folders, all begin with what tells them apart.
        """
        paths = [d.source.absolute() for d in self if isinstance(d.source, Path)]
        if len({path.name for path in paths}) == len(set(paths)):
            return [detections.file for detections in self]
        root = os.path.commonpath([path.parent for path in paths])
        return [
            d.source.absolute().relative_to(root).as_posix() if isinstance(d.source, Path) else None
            for d in self
        ]

    def to_dicts(self, *, masks: bool = True) -> list[dict[str, Tensor]]:
        """:meth:`Detections.to_dict` of each image."""
        return [detections.to_dict(masks=masks) for detections in self]

    def to_pandas(self, by: Literal["object", "image"] = "object") -> Any:
        """A ``pandas.DataFrame`` with a row for each object, or for each image.

        Args:
            by: ``object`` (number and file of the image, number of the object, box, score,
                z_what) or ``image`` (file, count and probability of each count).

        Raises:
            ImportError: if pandas is not installed.
            ValueError: if ``by`` is neither.
        """
        if by not in ("object", "image"):
            raise ValueError(f"by must be 'object' or 'image', got {by!r}.")
        try:
            import pandas
        except ImportError as error:
            raise ImportError(
                "to_pandas needs pandas: pip install pandas. "
                "Without it there are to_csv, to_json and to_coco."
            ) from error
        columns, rows = self._by_object() if by == "object" else self._by_image()
        return pandas.DataFrame(rows, columns=columns)

    def to_csv(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the counts: ``file``, ``count``, and ``p0``, ``p1`` ..., q(n | x) of each n.

        Raises:
            FileExistsError: if the file exists, and ``overwrite`` is not given.
        """
        columns, rows = self._by_image()
        text = io.StringIO(newline="")
        rows = [[_cell(file), *numbers] for file, *numbers in rows]
        csv.writer(text, lineterminator="\n").writerows([columns, *rows])
        return write_new(
            path, text.getvalue().encode(errors="surrogateescape"), overwrite=overwrite
        )

    def to_json(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write all but the pixels: counts, their probabilities, boxes, scores and z_what.

        Raises:
            FileExistsError: if the file exists, and ``overwrite`` is not given.
        """
        both = zip(self, self.files, strict=True)
        content = {"images": [detections.to_record() | {"file": file} for detections, file in both]}
        return write_new(path, _json(content), overwrite=overwrite)

    def to_coco(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write a COCO data set: one category, boxes, masks as run lengths, and scores.

        Raises:
            FileExistsError: if the file exists, and ``overwrite`` is not given.
        """
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        files = self.files
        for number, detections in enumerate(self, start=1):
            frame = detections.frame
            images.append(
                {
                    "id": number,
                    "file_name": files[number - 1] or f"image_{number - 1:05}",
                    "height": frame.height,
                    "width": frame.width,
                }
            )
            objects = zip(
                detections.boxes.tolist(), detections.scores.tolist(), detections.mask, strict=True
            )
            for box, score, mask in objects:
                x_min, y_min, x_max, y_max = box
                annotations.append(
                    {
                        "id": len(annotations) + 1,
                        "image_id": number,
                        "category_id": 1,
                        "bbox": _rounded([x_min, y_min, x_max - x_min, y_max - y_min], 3),
                        "area": int(mask.sum()),
                        "segmentation": {
                            "counts": run_lengths(mask),
                            "size": [frame.height, frame.width],
                        },
                        "iscrowd": 0,
                        "score": round(score, 6),
                    }
                )
        categories = [{"id": 1, "name": "object", "supercategory": ""}]
        content = {"images": images, "annotations": annotations, "categories": categories}
        return write_new(path, _json(content), overwrite=overwrite)

    def draw(self, *, columns: int = 8, most: int = 64) -> Any:
        """The images with their boxes in rows, as a ``PIL.Image.Image``.

        Args:
            columns: images in a row.
            most: images to draw at most, the first ones.

        Raises:
            ImportError: if Pillow is not installed.
            ValueError: if there is no image.
        """
        pillow = open_pillow()
        pictures = [detections.picture() for detections in self[:most]]
        if not pictures:
            raise ValueError("there is nothing to draw: no image was looked at.")
        height = max(picture.shape[1] for picture in pictures)
        width = max(picture.shape[2] for picture in pictures)
        padded = [
            F.pad(picture, (0, width - picture.shape[2], 0, height - picture.shape[1]), value=1.0)
            for picture in pictures
        ]
        grid = image_grid(torch.stack(padded), columns=columns, padding=4)
        return pillow.fromarray(to_uint8(grid).numpy())

    def _by_image(self) -> tuple[list[str], list[list[Any]]]:
        most = max((len(detections.count_probs) for detections in self), default=0)
        columns = ["file", "count", *(f"p{n}" for n in range(most))]
        rows = [
            [
                file or str(number),
                detections.count,
                *_rounded(detections.count_probs.tolist(), 6),
            ]
            for number, (detections, file) in enumerate(zip(self, self.files, strict=True))
        ]
        return columns, rows

    def _by_object(self) -> tuple[list[str], list[list[Any]]]:
        size = self[0].z_what.shape[1] if len(self) else 0
        columns = ["image", "file", "object", "x_min", "y_min", "x_max", "y_max", "score"]
        columns += [f"z_what_{i}" for i in range(size)]
        rows: list[list[Any]] = []
        for number, (detections, file) in enumerate(zip(self, self.files, strict=True)):
            objects = zip(
                detections.boxes.tolist(),
                detections.scores.tolist(),
                detections.z_what.tolist(),
                strict=True,
            )
            for index, (box, score, what) in enumerate(objects):
                rows.append([number, file, index, *box, score, *what])
        return columns, rows


def run_lengths(mask: Tensor) -> list[int]:
    """COCO's run lengths of a mask ``(h, w)``: column by column, starting with a run of zeros."""
    flat = mask.t().reshape(-1).to(torch.int8)
    changes = (flat.diff() != 0).nonzero().flatten() + 1
    ends = torch.cat([changes.new_zeros(1), changes, changes.new_tensor([len(flat)])])
    runs = ends.diff().tolist()
    return [0, *runs] if len(flat) and flat[0] else runs


def _cell(file: str) -> str:
    """A file's name that no spreadsheet takes for a formula; still a path to the file."""
    return f"./{file}" if file.startswith(("=", "+", "-", "@", "\t", "\r")) else file


def _rounded(values: list[float], digits: int) -> list[float]:
    return [round(value, digits) for value in values]


def _json(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, allow_nan=False) + "\n").encode()
