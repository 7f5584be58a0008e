"""AIR and its estimator as one boilr model, with boilr's checkpoint files made safe."""

from collections.abc import Callable
from pathlib import Path

import boilr.models
import torch
from torch import Tensor, nn

from air import AIR
from air.estimators import Estimator
from experiments.checkpoints import checkpoint_steps, load_checkpoint, save_checkpoint
from experiments.files import DamagedFileError

__all__ = ["AIRModel", "check_shapes", "checkpoint_steps", "read_checkpoint"]


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
        """Save ``model_<step>.pt``, whole or not at all, then remove older ones.

        Only the weights: boilr's trainer knows of nothing else. Ours saves all.

        Args:
            ckpt_folder: where to save.
            max_ckpt: how many to keep, at least 2; all if None or -1.
        """
        save_checkpoint(Path(ckpt_folder), self.global_step, self.state_dict(), keep=max_ckpt)

    def load(
        self, ckpt_folder: str, device: torch.device | None = None, step: int | None = None
    ) -> None:
        """Load ``model_<step>.pt``; of tensors only, no code in the file is ever run.

        Args:
            ckpt_folder: where it was saved.
            device: unused; the tensors go where the model lives.
            step: which one; default: the newest that is whole.

        Raises:
            FileNotFoundError: if there is no such checkpoint.
            ValueError: if it is damaged, or of another model.
        """
        self.restore(*read_checkpoint(Path(ckpt_folder), step=step))

    def restore(self, step: int, weights: dict[str, Tensor]) -> None:
        """Take the weights of a checkpoint, and its step.

        Raises:
            ValueError: if they are of another model; then nothing is changed.
        """
        _check_same(self.state_dict(), weights, f"the checkpoint of step {step}")
        self.load_state_dict(weights)
        self._global_step = step

    def sample_prior(self, n_imgs: int, *, num_objects: int | Tensor | None = None) -> Tensor:
        """Scenes drawn from the generative model, ``(n_imgs, C, H, W)``."""
        return self.air.sample(n_imgs, num_objects=num_objects).images


def read_checkpoint(
    folder: Path, device: torch.device | None = None, step: int | None = None
) -> tuple[int, dict[str, Tensor]]:
    """The step and the weights of a checkpoint.

    Args:
        folder: where it was saved.
        device: where its tensors shall live; default: the CPU.
        step: which one; default: the newest that is whole.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        DamagedFileError: if it is damaged.
    """
    checkpoint = load_checkpoint(folder, step)
    weights = checkpoint.weights
    if device is not None:
        weights = {name: tensor.to(device) for name, tensor in weights.items()}
    return checkpoint.step, weights


def check_shapes(make: Callable[[], nn.Module], weights: dict[str, Tensor], name: str) -> None:
    """Check that weights are a module's, without making the module.

    A configuration of absurd sizes, which a stranger may have written, allocates nothing here.

    Args:
        make: makes the module; called where tensors have no content.
        weights: a state dict.
        name: of the weights, for messages.

    Raises:
        ValueError: if the module cannot be made, or the weights are another's.
    """
    try:
        with torch.device("meta"):
            expected = make().state_dict()
    except (RuntimeError, TypeError, OverflowError) as error:
        raise DamagedFileError(f"the configuration of {name} makes no model: {error}") from error
    _check_same(expected, weights, name)


def _check_same(expected: dict[str, Tensor], found: dict[str, Tensor], name: str) -> None:
    shapes = {key: (tensor.shape, tensor.dtype) for key, tensor in expected.items()}
    given = {key: (tensor.shape, tensor.dtype) for key, tensor in found.items()}
    if shapes != given:
        odd = sorted(key for key in shapes | given if shapes.get(key) != given.get(key))
        raise ValueError(
            f"{name} is of another model: missing, unknown or of another shape or type are "
            f"{', '.join(odd[:5])}{' and others' if len(odd) > 5 else ''}."
        )
