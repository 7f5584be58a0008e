"""Pyro's AIR example: its own training script, stopped at its first step and asked for more.

Two things about it are replaced from outside: the data set (ours is handed over, so that it need
not make its own) and visdom, which it imports and does not use with these flags.
"""

import importlib
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

FLAGS = (
    "-n 200000 -blr 0.1 --z-pres-prior 0.01 --scale-prior-sd 0.2 --predict-net 200 "
    "--bl-predict-net 200 --decoder-output-use-sigmoid --decoder-output-bias -2 --seed 287710"
)
"""Of Pyro's AIR tutorial, "In practice"."""


def run(spec: dict[str, Any], serve: Callable[[Callable[[], None]], None]) -> None:
    """Serve the steps of its training loop."""
    import numpy as np

    multi_mnist: Any = importlib.import_module("pyro.contrib.examples.multi_mnist")
    infer: Any = importlib.import_module("pyro.infer")
    with np.load(spec["images"]) as arrays:
        images, num_objects = arrays["images"][:, 0], arrays["num_objects"]
    multi_mnist.load = lambda _: (images, [[0] * count for count in num_objects])
    sys.modules.setdefault("visdom", types.ModuleType("visdom"))

    class ServedSVI(infer.SVI):
        def step(self, *args: Any, **kwargs: Any) -> float:
            def step() -> None:
                super(ServedSVI, self).step(*args, **kwargs)

            serve(step)
            raise AssertionError("the script went on")

    infer.SVI = ServedSVI
    sys.argv = ["main.py", *FLAGS.split(), "--progress-every", "0"]
    sys.argv += ["-b", str(spec["batch_size"]), "-t", str(spec["max_objects"])]
    if spec["device"] == "cuda":
        sys.argv.append("--cuda")
    runpy.run_path(str(Path(spec["folder"]) / "main.py"), run_name="__main__")
