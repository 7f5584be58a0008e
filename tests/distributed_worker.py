"""One of two processes that train together; run by ``test_distributed.py``, never by itself.

Does everything that takes two processes, and writes what it saw as JSON for the tests to judge:
starting a process takes seconds, so that all share one start.

    python -m tests.distributed_worker FOLDER SECOND_PORT
"""

import json
import math
import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.overrides import TorchFunctionMode

from air.estimators import ESTIMATORS, make_estimator
from experiments import distributed
from experiments.datasets.sharded_scenes import open_shards
from experiments.experiment import AIRExperiment
from experiments.loaders import SceneLoader
from experiments.resume import resumed_args
from experiments.shard_loader import ShardLoader
from experiments.trainer import Trainer
from tests.conftest import make_scenes
from tests.small import small_images, small_model

BATCH = 22  # no other axis of the small model has 22 or 11 entries
STEPS = 3
CPU = torch.device("cpu")
SETTINGS = {
    "run_name": "run",
    "threads": 1,
    "no_cuda": True,
    "batch_size": 4,
    "z_what_size": 5,
}
NORMAL = {torch.randn, torch.randn_like, torch.normal, torch.Tensor.normal_}
UNIFORM = {torch.rand, torch.rand_like, torch.Tensor.uniform_}


class NoiseOfTheWholeBatch(TorchFunctionMode):
    """Draws all noise for the whole batch, and hands out this process's part of it.

    Two processes and one then see the same noise for the same image.
    """

    def __init__(self, seed, batch, part):
        super().__init__()
        self.generator = torch.Generator().manual_seed(seed)
        self.batch, self.part = batch, part
        self.size = part.stop - part.start

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in NORMAL or func in UNIFORM:
            shape = list(result.shape)
            assert shape.count(self.size) == 1, shape
            axis = shape.index(self.size)
            shape[axis] = self.batch
            draw = torch.randn if func in NORMAL else torch.rand
            whole = draw(shape, generator=self.generator, dtype=result.dtype)
            result.copy_(whole.narrow(axis, self.part.start, self.size))
        return result


def train_estimator(name, part):
    """Some steps on a part of the batch; everything that should not depend on the parts."""
    model = small_model(dtype=torch.float64)
    estimator = make_estimator(name, model.config, num_samples=3).double()
    images = small_images(BATCH, dtype=torch.float64)[part]
    module = torch.nn.ModuleList([model, estimator])
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-4)
    record = []
    with NoiseOfTheWholeBatch(1, BATCH, part):
        for _ in range(STEPS):
            objective = estimator(model, images)
            optimizer.zero_grad()
            objective.total_loss.backward()
            distributed.average_gradients(module.parameters())
            optimizer.step()
            losses = {
                "loss": objective.loss.item(),
                "auxiliary": objective.auxiliary_loss.item(),
            }
            record.append(
                distributed.average_metrics(losses)
                | {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}
                | {f"buffer {n}": b.clone() for n, b in module.named_buffers()}
            )
    return record


def largest_difference(one, two):
    """Of all tensors and numbers, relative to the largest entry of each."""
    worst = 0.0
    for expected, found in zip(one, two, strict=True):
        assert list(expected) == list(found)
        for name in expected:
            a, b = torch.as_tensor(expected[name]), torch.as_tensor(found[name])
            assert a.isfinite().all(), name
            scale = a.abs().max().clamp(min=1e-300)
            worst = max(worst, float((a - b).abs().max() / scale))
    return worst


def numbered(number):
    """Scenes whose first pixel is their position."""
    scenes = make_scenes(number)
    scenes.images[:, 0, 0, 0] = torch.arange(number)
    return scenes


def positions(loader):
    return [images[:, 0, 0, 0].tolist() for images, _ in loader]


def digest(module):
    """Every bit of a module's parameters and buffers."""
    return [bytes(t.detach().numpy().tobytes()).hex() for t in module.state_dict().values()]


def same_on_both(value):
    """Whether both processes have the same value."""
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return all(other == values[0] for other in values)


def seen_together(folder, alone):
    """What happens while both processes train together."""
    seen = {"rank": distributed.rank(), "world_size": distributed.world_size()}
    part = distributed.own_range(BATCH)
    seen["differences"] = {
        name: largest_difference(alone[name], train_estimator(name, part)) for name in ESTIMATORS
    }

    torch.manual_seed(distributed.rank())
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    seen["same_at_random"] = same_on_both(digest(module))
    distributed.same_weights(module)
    seen["same_after_broadcast"] = same_on_both(digest(module))

    torch.manual_seed(5)
    distributed.spread_seeds(5)
    seen["noise"] = torch.rand(3).tolist()

    loader = SceneLoader(numbered(22), batch_size=6, shuffle=True, device=CPU)
    seen["batches"] = [positions(loader), positions(loader)]
    splits = open_shards(folder / "shards")
    own = splits.train.part(distributed.own_range(len(splits.train)))
    seen["shard_batches"] = positions(ShardLoader(own, batch_size=6, device=CPU, block_size=4))

    rank = distributed.rank()
    mine = {"a": float(rank), "b": math.nan if rank else 1.0}
    seen["metrics"] = distributed.average_metrics(mine, weight=1 + 2 * rank)
    try:
        distributed.local_batch_size(7)
    except ValueError as error:
        seen["odd_batch"] = str(error)

    file = folder / "made_by_rank_0"
    with distributed.main_first():
        seen["was_there"] = file.exists()
        if rank == 0:
            time.sleep(0.2)
            file.write_text("")

    seen["differ"] = [refusal(folder, "--lr"), refusal(folder, "the data"), refusal(folder, None)]
    seen |= train(folder)
    seen |= stop_and_resume(folder)
    return seen


def refusal(folder, what):
    """What is said to processes that start with other settings or other data."""
    rank = distributed.rank()
    args = AIRExperiment.default_args(
        dataset="scenes:canvas=24,size=8,sprites=shapes,train=24,held_out=6",
        data_root=str(folder / f"data_of_rank_{rank}"),
        output=str(folder / "refused"),
        **SETTINGS,
        max_steps=4,
        train_log_every=2,
        test_log_every=2,
        checkpoint_every=2,
        lr=0.1 * (1 + rank) if what == "--lr" else 0.1,
    )
    experiment = AIRExperiment(args)
    make = experiment._make_datamanager

    def make_other():
        manager = make()
        if rank and what == "the data":
            images = manager.splits.train.images
            images.copy_(images.flip(0).clone())
            manager.identity["train"] = manager.splits.train.sha256
        return manager

    experiment._make_datamanager = make_other
    try:
        Trainer(experiment).close()
    except ValueError as error:
        return str(error)
    return None


def train(folder):
    """A short training run through the trainer."""
    args = AIRExperiment.default_args(
        dataset=f"shards:{folder / 'shards'}",
        output=str(folder / f"output_of_rank_{distributed.rank()}"),
        **SETTINGS,
        estimator="reinforce",
        max_steps=4,
        train_log_every=2,
        test_log_every=2,
        checkpoint_every=2,
        max_grad_norm=1.0,
    )
    trainer = Trainer(AIRExperiment(args))
    held_out = trainer.run()
    return {
        "held_out": held_out,
        "same_after_training": same_on_both(digest(trainer.experiment.model)),
        "same_noise_after_training": same_on_both(torch.rand(3).tolist()),
    }


def stop_and_resume(folder):
    """A run whose second process gets a signal in its first step, continued to its end."""
    args = AIRExperiment.default_args(
        dataset=f"shards:{folder / 'shards'}",
        output=str(folder / "shared"),
        **SETTINGS,
        max_steps=6,
        train_log_every=2,
        test_log_every=4,
        checkpoint_every=4,
    )
    trainer = Trainer(AIRExperiment(args))
    if distributed.rank() == 1:
        step = trainer._step

        def step_and_signal(x, y):
            step(x, y)
            signal.raise_signal(signal.SIGTERM)
            trainer._step = step

        trainer._step = step_and_signal
    trainer.run()
    stopped = [trainer.stopped_by, trainer.experiment.model.global_step]
    distributed.average_metrics({"saved": 1.0})  # process 0 has saved by now
    settings, _ = resumed_args(args.output, "run")
    rest = Trainer(AIRExperiment(settings))
    began = rest.experiment.model.global_step
    rest.run()
    return {
        "stopped": stopped,
        "began": began,
        "ended": rest.experiment.model.global_step,
        "same_after_resuming": same_on_both(digest(rest.experiment.model)),
    }


def end_alone(end, *, timeout):
    """What becomes of the two processes when rank 1 comes to an end of its own."""
    try:
        with distributed.processes(timeout=timedelta(seconds=timeout)):
            if distributed.rank() == 1:
                end()
            distributed.average_metrics({"a": 1.0})
    except (ConnectionError, FloatingPointError) as caught:
        return f"{type(caught).__name__}: {caught}"
    return "no error"


def fail():
    raise FloatingPointError("broke down")


def main():
    folder, second_port = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    distributed._LARGE = 500  # so that the small model has gradients of both kinds
    alone = {name: train_estimator(name, slice(0, BATCH)) for name in ESTIMATORS}
    with distributed.processes():
        seen = seen_together(folder, alone)
    seen["group_left"] = not dist.is_initialized()
    seen["other_failed"] = end_alone(fail, timeout=60)
    os.environ["MASTER_PORT"] = second_port
    noticed = folder / "noticed"

    def hang():
        for _ in range(1000):
            time.sleep(0.1)
            if noticed.exists():
                break

    seen["other_hung"] = end_alone(hang, timeout=10)  # time enough to form the group
    noticed.write_text("")
    (folder / f"rank{seen['rank']}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main()
