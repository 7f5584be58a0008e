"""A model's ``infer`` for other runtimes: as a ``torch.export`` program, or an ONNX file."""

import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from air.files import check_free, write_new
from air.model import AIR

__all__ = ["OUTPUTS", "ExportedReading", "export_onnx", "export_program"]


class ExportedReading(NamedTuple):
    """What an exported model gives for a batch of images; see :class:`air.types.Inference`.

    Nothing is left out beyond an image's count: look at ``counts``.
    """

    counts: Tensor
    """Most probable number of objects: int64 ``(B,)``."""
    count_probs: Tensor
    """``q(n | x)``: ``(B, T + 1)``."""
    boxes: Tensor
    """In pixels of the canvas; not-a-number beyond the count: ``(B, T, 4)``."""
    z_where: Tensor
    """Mean pose; not-a-number beyond the count: ``(B, T, 3)``."""
    z_what: Tensor
    """Mean appearance; not-a-number beyond the count: ``(B, T, D)``."""
    canvas: Tensor
    """Reconstruction: ``(B, C, H, W)``."""


OUTPUTS = ExportedReading._fields
"""Names of the outputs, in their order."""


class _Reader(nn.Module):
    """``infer`` as a function of tensors alone."""

    def __init__(self, model: AIR) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> ExportedReading:
        """Read prepared images, float32 in [0, 1], ``(B, C, H, W)``."""
        reading = self.model.read(images)
        return ExportedReading(**{name: getattr(reading, name) for name in OUTPUTS})


def export_program(model: AIR) -> torch.export.ExportedProgram:
    """Export ``infer`` with ``torch.export``: means of the latents, T steps, any batch size.

    Args:
        model: on the CPU.

    Returns:
        A program of PyTorch's own operators. ``program.module()(images)`` takes prepared images
        (float32 in [0, 1], ``(B, C, H, W)``, not checked) and gives an :class:`ExportedReading`.
    """
    reader = _Reader(model.eval())
    images = torch.zeros(2, *model.config.image_shape)
    batch = torch.export.Dim("batch", min=1)
    with torch.no_grad():
        return torch.export.export(reader, (images,), dynamic_shapes={"images": {0: batch}})


def export_onnx(model: AIR, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write ``infer`` as an ONNX file: means of the latents, T steps, any batch size.

    One input, ``images``: prepared, float32 in [0, 1], ``(B, C, H, W)``; and the outputs
    :data:`OUTPUTS`. The weights are in the file.

    Args:
        model: on the CPU.
        path: of the file, which ends in ``.onnx``.
        overwrite: whether a file that is there may be replaced.

    Raises:
        FileExistsError: if the file exists and ``overwrite`` is not given.
        ImportError: if the extra ``onnx`` is not installed.
        ValueError: if the file's name ends otherwise.
    """
    path = check_free(path, overwrite=overwrite)
    if path.suffix != ".onnx":
        raise ValueError(f"path must end in .onnx, got {path.name!r}.")
    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "to write an ONNX file, install its extra: pip install 'attend-infer-repeat[onnx]'."
        ) from error
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # Of PyTorch's own making: what it will deprecate next, and names of axes.
        warnings.simplefilter("ignore")
        file = Path(temporary) / "model.onnx"
        torch.onnx.export(
            export_program(model),
            f=str(file),
            input_names=["images"],
            output_names=list(OUTPUTS),
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        return write_new(path, file.read_bytes(), overwrite=overwrite)
