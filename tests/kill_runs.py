"""Kill a run again and again, and continue it each time. Prints what was lost, as JSON.

A script of its own: it forks, which a process with threads must not do.

Usage: python -m tests.kill_runs OUTPUT KILLS MAX_STEPS SEED
"""

import json
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

from experiments.boilr_model import AIRModel
from experiments.checkpoints import checkpoint_steps, load_checkpoint
from experiments.cli import main
from tests.tiny_main import make_everything_tiny

CHECKPOINT_EVERY = 8
FLAGS = {
    "--threads": 1,
    "--batch-size": 8,
    "--test-batch-size": 10,
    "--z-what-size": 5,
    "--tr-log-every": 4,
    "--ts-log-every": CHECKPOINT_EVERY,
    "--checkpoint-every": CHECKPOINT_EVERY,
    "--run-name": "killed",
}


def start(argv, reached):
    """Run ``main`` in a child, which writes the step it reached into shared memory."""
    child = os.fork()
    if child:
        return child
    try:
        for stream in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
        increment = AIRModel.increment_global_step

        def increment_and_tell(model):
            increment(model)
            reached[:8] = model.global_step.to_bytes(8, "little")

        AIRModel.increment_global_step = increment_and_tell
        os._exit(main(argv))
    finally:
        os._exit(99)


def newest(run):
    folder = run / "checkpoints"
    return load_checkpoint(folder).step if checkpoint_steps(folder) else 0


def kill_again_and_again(output, kills, max_steps, seed):
    chance, reached = random.Random(seed), mmap.mmap(-1, 8)
    run = output / "killed"
    train = ["train", "--nocuda", "--output", str(output), "--max-steps", str(max_steps)]
    train += [str(part) for flag in FLAGS.items() for part in flag]
    resume = ["train", "--resume", "killed", "--output", str(output)]
    lost, statuses = [], []
    while True:
        finished = len(lost) == kills
        known = (run / "config.json").exists()
        before = newest(run) if known else 0
        reached[:8] = before.to_bytes(8, "little")
        child = start(resume if known else train, reached)
        if not finished:
            time.sleep(chance.uniform(0.0, 1.5))
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if finished:
            break
        statuses.append(os.waitstatus_to_exitcode(status))
        after = newest(run) if (run / "config.json").exists() else 0
        assert after >= before, (before, after)
        lost.append(int.from_bytes(reached[:8], "little") - after)
    return {"lost": lost, "statuses": statuses, "end": os.waitstatus_to_exitcode(status)}


if __name__ == "__main__":
    make_everything_tiny()
    folder, *numbers = sys.argv[1:]
    print(json.dumps(kill_again_and_again(Path(folder), *map(int, numbers))))
