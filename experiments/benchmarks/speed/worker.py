"""A system's process. It is run as a script and imports nothing of this project.

The first line of its input is a JSON object: ``driver`` (a Python file), ``path`` (folders to put
in front of ``sys.path``), ``threads``, ``device``, ``warmup``, and whatever the driver reads. The
driver's ``run(spec, serve)`` either returns a result, which is the reply, or calls ``serve`` with
a function that takes one training step. After the warm-up each further line, ``{"blocks": n,
"block": m}``, is answered with the seconds a step of n blocks of m steps; the end of the input
ends the process.
"""

import importlib.util
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, TextIO

import torch


def main() -> int:
    """Serve until the input ends."""
    # What a system prints must not get between the replies: its output goes where errors go.
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    spec = json.loads(sys.stdin.readline())
    torch.set_num_threads(spec["threads"])
    sys.path[:0] = spec["path"]
    try:
        driver = _load(spec["driver"])
        result = driver.run(spec, lambda step: _serve(step, spec, replies))
    except Exception as error:
        traceback.print_exc()
        _reply(replies, {"error": f"{type(error).__name__}: {error}"})
        return 1
    _reply(replies, {"result": result})
    return 0


def _serve(step: Callable[[], None], spec: dict[str, Any], replies: TextIO) -> None:
    for _ in range(spec["warmup"]):
        step()
    _reply(replies, {"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        seconds = [_time(step, order["block"], spec["device"]) for _ in range(order["blocks"])]
        _reply(replies, {"seconds": seconds})
    raise SystemExit(0)  # also out of a training script that would go on for ever


def _time(step: Callable[[], None], block: int, device: str) -> float:
    """Seconds a step, over a block of steps with the device waited for before and after."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(block):
        step()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / block


def _load(path: str) -> Any:
    spec = importlib.util.spec_from_file_location("speed_driver", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _reply(replies: TextIO, message: dict[str, Any]) -> None:
    replies.write(json.dumps(message) + "\n")
    replies.flush()


if __name__ == "__main__":
    sys.exit(main())
