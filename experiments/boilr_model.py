"""AIR and its estimator as one boilr model, with boilr's checkpoint files made safe."""

import os
import re
import tempfile
from pathlib import Path

import boilr.models
import torch
from torch import Tensor

from air import AIR
from air.estimators import Estimator

_CHECKPOINT = re.compile(r"model_(0|[1-9][0-9]*)\.pt")


class AIRModel(boilr.models.BaseGenerativeModel):
    """What boilr trains and saves: the model and what its estimator learns.

    Args:
        air: the model.
        estimator: trains it; may have parameters of its own.
    """

    def __init__(self, air: AIR, estimator: Estimator) -> None:
        super().__init__()
        self.air = air
        self.estimator = estimator

    def checkpoint(self, ckpt_folder: str, max_ckpt: int | None = None) -> None:
        """Save ``model_<step>.pt`` and remove all but the newest ``max_ckpt``.

        The file appears under its name only once it is whole; older ones go after that.

        Args:
            ckpt_folder: where to save.
            max_ckpt: how many to keep; all if None or -1.
        """
        folder = Path(ckpt_folder)
        target = folder / f"model_{self.global_step}.pt"
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".saving-", delete=False) as file:
            try:
                torch.save(self.state_dict(), file)
                file.flush()
                os.fsync(file.fileno())
                os.chmod(file.name, 0o644)  # temporary files are readable by their owner only
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
        if max_ckpt is None or max_ckpt == -1:
            return
        for step in sorted(checkpoint_steps(folder))[: -max(max_ckpt, 1)]:
            (folder / f"model_{step}.pt").unlink(missing_ok=True)

    def load(
        self, ckpt_folder: str, device: torch.device | None = None, step: int | None = None
    ) -> None:
        """Load ``model_<step>.pt``; of tensors only, no code in the file is ever run.

        Args:
            ckpt_folder: where it was saved.
            device: where its tensors shall live.
            step: which one; default: that of the highest step.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            ValueError: if it is damaged, or of another model.
        """
        step, state = read_checkpoint(Path(ckpt_folder), device, step)
        try:
            self.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(
                f"the checkpoint of step {step} is of another model: {error}"
            ) from error
        self._global_step = step

    def sample_prior(self, n_imgs: int, *, num_objects: int | Tensor | None = None) -> Tensor:
        """Scenes drawn from the generative model, ``(n_imgs, C, H, W)``."""
        return self.air.sample(n_imgs, num_objects=num_objects).images


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, in no particular order."""
    matches = (_CHECKPOINT.fullmatch(path.name) for path in folder.glob("model_*.pt"))
    return [int(match[1]) for match in matches if match]


def read_checkpoint(
    folder: Path, device: torch.device | None = None, step: int | None = None
) -> tuple[int, dict[str, Tensor]]:
    """The step and the tensors of a checkpoint.

    Args:
        folder: where it was saved.
        device: where its tensors shall live.
        step: which one; default: that of the highest step.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if it is damaged.
    """
    steps = sorted(checkpoint_steps(folder))
    if not steps or (step is not None and step not in steps):
        wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
        found = ", ".join(map(str, steps)) or "none"
        raise FileNotFoundError(f"{folder} holds {wanted}. Steps found: {found}.")
    step = steps[-1] if step is None else step
    path = folder / f"model_{step}.pt"
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        if not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise TypeError("it holds other things than tensors")
    except Exception as error:  # torch.load raises whatever a damaged file makes it trip over
        raise ValueError(f"cannot read {path}: {error}") from error
    return step, state
