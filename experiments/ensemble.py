"""Many seeds as one model: parameters stacked along a first axis, one step for all of them.

One AIR leaves a GPU idle. Here each operation does the work of all seeds: the forward pass is
that of one model, mapped over the stack by ``torch.func``. Seeds share nothing but the step:
each has its own start, batches, noise, gradient norm and moments of Adam, and its own baseline
and running statistics, which the estimator updates in its slice of the stack.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from experiments.boilr_model import AIRModel
from experiments.experiment import AIRExperiment
from experiments.loaders import SceneLoader
from experiments.step import EagerStep


class StackedStep(EagerStep):
    """A step of S models at once; ``metrics`` gives a list of S numbers under each name.

    Adam works element by element, so Adam on the stack is Adam on each. It takes the place of
    the experiment's own optimiser, whose model becomes a place to look at one seed
    (:meth:`select`).

    Args:
        experiment: set up; its settings, schedules and forward pass are used for all.
        models: S of the experiment's models, each with its own start.
    """

    def __init__(self, experiment: AIRExperiment, models: Sequence[AIRModel]) -> None:
        super().__init__(experiment)
        self.num_seeds = len(models)
        parameters, self.buffers = stack_module_state(list(models))
        """By their names in the model, each ``(S, *)``."""
        # Weights are held transposed, ``(S, in, out)``: as the gradient of a batched product
        # comes. It would be rewritten at every step otherwise, a quarter of the time on a CPU.
        self.leaves = {
            name: _turned(stacked).detach().contiguous().requires_grad_()
            for name, stacked in parameters.items()
        }
        """What Adam is given: the parameters, those of two axes transposed."""
        self._forward_pass = _ForwardPass(experiment)
        optimizer = experiment.optimizer
        names = {id(parameter): name for name, parameter in experiment.model.named_parameters()}
        groups = [
            {**group, "params": [self.leaves[names[id(one)]] for one in group["params"]]}
            for group in optimizer.param_groups
        ]
        experiment._optimizer = type(optimizer)(groups, **optimizer.defaults)

    @property
    def parameters(self) -> dict[str, Tensor]:
        """By their names in the model, each ``(S, *)``: views of the leaves."""
        return {name: _turned(leaf) for name, leaf in self.leaves.items()}

    def update(self, x: Tensor, y: Tensor) -> None:
        """Forward, backward and Adam for all seeds.

        Args:
            x: images ``(S, B, C, H, W)``.
            y: numbers of objects ``(S, B)``.
        """
        optimizer, max_norm = self.experiment.optimizer, self.experiment.args.max_grad_norm
        results = torch.vmap(self._one, randomness="different")(self.parameters, self.buffers, x, y)
        optimizer.zero_grad()
        # No seed's loss depends on another's parameters: the sum's gradient is each one's own.
        results.pop("loss").sum().backward()
        if max_norm is not None:
            clip_grad_norms(list(self.leaves.values()), max_norm)
        optimizer.step()
        self._add(results)

    @torch.no_grad()
    def select(self, index: int) -> None:
        """Copy one seed's parameters and buffers into the experiment's model."""
        model, stacked = self.experiment.model, self.parameters | self.buffers
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            tensor.copy_(stacked[name][index])

    def _one(
        self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor
    ) -> dict[str, Tensor]:
        state = {f"model.{name}": tensor for name, tensor in (parameters | buffers).items()}
        return functional_call(self._forward_pass, state, (x, y))


class StackedLoader:
    """Batches for S seeds at once, from one copy of the data; each seed has an order of its own.

    Args:
        loader: of the training scenes.
        generators: one a seed, on the CPU; draws its order at each pass.
    """

    def __init__(self, loader: SceneLoader, generators: Sequence[torch.Generator]) -> None:
        self.loader = loader
        self.generators = generators

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images uint8 ``(S, B, C, H, W)`` and numbers of objects int64 ``(S, B)``."""
        for batch in self._batches():
            yield self.loader.images[batch], self.loader.num_objects[batch]

    def into(self, images: Tensor, num_objects: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """One pass, all batches gathered into the same two tensors; see ``SceneLoader.into``."""
        for batch in self._batches():
            flat = batch.flatten()
            torch.index_select(self.loader.images, 0, flat, out=images.flatten(0, 1))
            torch.index_select(self.loader.num_objects, 0, flat, out=num_objects.flatten())
            yield images, num_objects

    def buffers(self) -> tuple[Tensor, Tensor]:
        """Room for one batch of all seeds, for :meth:`into`."""
        images, num_objects = self.loader.buffers()
        number = len(self.generators)
        return images.new_empty(number, *images.shape), num_objects.new_empty(number, len(images))

    def _batches(self) -> Iterator[Tensor]:
        """Which scenes each batch holds, ``(S, B)``, on the data's device."""
        number, size = len(self.loader.dataset), self.loader.batch_size
        orders = [torch.randperm(number, generator=generator) for generator in self.generators]
        order = torch.stack(orders).to(self.loader.images.device)
        yield from order.split(size, dim=1)[: len(self)]


@torch.no_grad()
def clip_grad_norms(parameters: Sequence[Tensor], max_norm: float) -> None:
    """Clip each seed's gradient to a global norm, as ``clip_grad_norm_`` does for one model.

    Args:
        parameters: stacked, ``(S, *)`` each.
        max_norm: the largest norm of one seed's whole gradient.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norms = [torch.linalg.vector_norm(grad.reshape(len(grad), -1), dim=1) for grad in gradients]
    total = torch.linalg.vector_norm(torch.stack(norms), dim=0)
    factor = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for grad in gradients:
        grad.mul_(factor.view(-1, *[1] * (grad.dim() - 1)))


def _turned(stacked: Tensor) -> Tensor:
    """A stack of matrices transposed, anything else as it is; its own inverse."""
    return stacked.mT if stacked.dim() == 3 else stacked


class _ForwardPass(nn.Module):
    """The experiment's forward pass as a module, whose parameters can be exchanged for a call."""

    def __init__(self, experiment: AIRExperiment) -> None:
        super().__init__()
        self.model = experiment.model
        self._experiment = experiment

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return self._experiment.forward_pass(x, y)
