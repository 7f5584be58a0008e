"""``python -m experiments.demo.timing``: how long an answer of the demo takes on this machine."""

import argparse
import statistics
import time

import torch
from werkzeug.test import Client

from air.visualization import to_uint8
from experiments.cpu import check_threads
from experiments.demo.images import choose_sprites
from experiments.demo.server import DemoApp
from experiments.models import load_model

__all__ = ["main", "measure"]


def measure(app: DemoApp, repeats: int) -> dict[str, dict[str, float]]:
    """Milliseconds of an answer, medians over answers to one scene of two digits.

    Args:
        app: to ask.
        repeats: answers, after some that do not count.

    Returns:
        For one view and for all: ``model``, ``pictures`` and ``answer``, which is all of it but
        the way to the browser; and ``slowest`` answer.
    """
    config = app.model.config
    canvas = torch.zeros(config.image_shape)
    for sprite, corner in zip(choose_sprites(app.digits, config, 0)[2:4], (0, -1), strict=True):
        side = len(sprite.pixels)
        window = slice(0, side) if corner == 0 else slice(-side, None)
        canvas[:, window, window] = torch.from_numpy(sprite.pixels / 255).float()
    scene = to_uint8(canvas)[..., : config.channels].contiguous().numpy().tobytes()
    client = Client(app)
    times = {}
    queries = {"one view": "views=0"}
    if app.views is not None:
        queries[f"{len(app.views)} views"] = "views=1"
    for name, query in queries.items():
        rows = []
        for number in range(repeats + 5):
            start = time.perf_counter()
            answer = client.post(f"/look?{query}", data=scene).get_json()
            answer_ms = 1000 * (time.perf_counter() - start)
            if number >= 5:
                rows.append((answer["model_ms"], answer["pictures_ms"], answer_ms))
        medians = [statistics.median(column) for column in zip(*rows, strict=True)]
        times[name] = dict(zip(("model", "pictures", "answer"), medians, strict=True))
        times[name]["slowest"] = max(row[2] for row in rows)
    return times


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", metavar="MODEL", default="multi-mnist")
    parser.add_argument("--repeats", metavar="N", type=int, default=200)
    parser.add_argument("--threads", metavar="N", type=int, default=1)
    args = parser.parse_args()
    check_threads(args.threads)
    torch.set_num_threads(args.threads)
    model = load_model(args.load, "output", torch.device("cpu")).air
    print(f"{args.repeats} answers each, median ms; threads: {args.threads}")
    for name, row in measure(DemoApp(model, args.load), args.repeats).items():
        print(
            f"{name}: model {row['model']:.1f}, with pictures "
            f"{row['model'] + row['pictures']:.1f}, whole answer {row['answer']:.1f} "
            f"(slowest {row['slowest']:.1f})"
        )


if __name__ == "__main__":
    main()
