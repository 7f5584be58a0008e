"""``python main.py data``: make a data set and say what is in it."""

import argparse
import io
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from air.visualization import draw_boxes, image_grid, to_uint8
from experiments.datasets import (
    DATASETS,
    DEFAULT_DATASET,
    DatasetSpec,
    DataSplits,
    Scenes,
    cache_path,
    load_dataset,
)
from experiments.datasets.scenes import write_atomically
from experiments.datasets.sharded_scenes import PREFIX
from experiments.datasets.shards import check_writable, read_index, verify_shards, write_shards

__all__ = ["add_arguments", "run"]

_PICTURE_SCENES = 48
_PICTURE_COLUMNS = 8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help=f"data set to make and describe, one of: {', '.join(sorted(DATASETS))}; "
        "shards:FOLDER to check every file of a folder of shards; without it, list them",
    )
    parser.add_argument(
        "--data-root",
        type=Path,
        metavar="DIR",
        help="where data sets are kept (default: $AIR_DATA_ROOT, else ~/.cache/air)",
    )
    parser.add_argument(
        "--mnist-root",
        type=Path,
        metavar="DIR",
        help="folder with MNIST's training files, as torchvision leaves them or as published "
        "(default: $AIR_MNIST_ROOT, else the data root, else a download)",
    )
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="PATH.png",
        help="where to draw held-out scenes with their true boxes; must not exist "
        "(default: NAME.png in the data root)",
    )
    parser.add_argument(
        "--write-shards",
        type=Path,
        metavar="FOLDER",
        help="write the data set as memory-mapped shards, for --dataset shards:FOLDER; "
        "must not exist, or be empty",
    )
    parser.add_argument(
        "--shard-size",
        type=int,
        default=8192,
        metavar="N",
        help="scenes a shard (default: %(default)s)",
    )
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object on stdout, all else on stderr"
    )


def run(args: argparse.Namespace) -> int:
    """Run the command.

    Returns:
        The exit status: 0, or 2 with one line on stderr if an argument cannot be used.
    """
    try:
        if args.name is None:
            _list_datasets(as_json=args.json)
        elif args.name.startswith(PREFIX):
            _verify_shards(args.name.removeprefix(PREFIX), as_json=args.json)
        else:
            _describe(args)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _list_datasets(*, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"datasets": [_facts(spec) for spec in DATASETS.values()]}))
        return
    width = max(map(len, DATASETS))
    for spec in DATASETS.values():
        default = " (default)" if spec.name == DEFAULT_DATASET else ""
        print(f"{spec.name:<{width}}  {spec.description}{default}")


def _describe(args: argparse.Namespace) -> None:
    # Before the work, not after it.
    if args.write_shards is not None:
        check_writable(args.write_shards, args.shard_size)
    if args.picture is not None:
        _check_picture(args.picture, default=_default_picture(args.name, args.data_root))
    start = time.perf_counter()
    splits = load_dataset(args.name, data_root=args.data_root, mnist_root=args.mnist_root)
    seconds = time.perf_counter() - start
    cache = cache_path(splits.name, args.data_root)
    description = {
        **_facts(DATASETS[splits.name]),
        "requested": args.name,
        "image_shape": list(splits.train.images.shape[1:]),
        "train": _describe_scenes(splits.train),
        "held_out": _describe_scenes(splits.held_out),
        "pixel_sum": splits.pixel_sum,
        "sha256": splits.sha256,
        "mean_object_size": _mean_object_size(splits),
        "cache": str(cache) if cache.is_file() else None,
        "picture": _save_picture(splits, args),
        "shards": _write_shards(splits, args),
        "seconds": round(seconds, 2),
    }
    if args.json:
        print(json.dumps(description))
    else:
        _print_description(description)


def _write_shards(splits: DataSplits, args: argparse.Namespace) -> str | None:
    if args.write_shards is None:
        return None
    write_shards(
        args.write_shards,
        name=splits.name,
        train=[splits.train],
        held_out=[splits.held_out],
        z_where_mean=DATASETS[splits.name].z_where_mean,
        shard_size=args.shard_size,
    )
    return str(args.write_shards)


def _verify_shards(folder: str, *, as_json: bool) -> None:
    index = read_index(Path(folder).expanduser())
    description = {
        "name": index.name,
        "folder": str(index.folder),
        "image_shape": list(index.image_shape),
        "max_count": index.max_count,
        **{split: sum(sizes) for split, sizes in index.sizes.items()},
        "files": sum(1 for _ in verify_shards(index)),
    }
    if as_json:
        print(json.dumps(description))
        return
    print(f"{index.name} in {index.folder}: {description['files']} files, all as written")
    print(f"image (C, H, W)    {index.image_shape}, 0 to {index.max_count} objects")
    for split, sizes in index.sizes.items():
        print(f"{split.replace('_', ' '):<18} {sum(sizes)} scenes in {len(sizes)} shards")


def _facts(spec: DatasetSpec) -> dict[str, Any]:
    """What is known without making the data set, as plain data."""
    return {
        "name": spec.name,
        "description": spec.description,
        "max_count": spec.max_count,
        "canvas_size": list(spec.canvas_size),
        "channels": spec.channels,
        "z_where_mean": list(spec.z_where_mean),
    }


def _describe_scenes(scenes: Scenes) -> dict[str, Any]:
    per_count = scenes.num_objects.bincount(minlength=scenes.max_count + 1)
    return {
        "scenes": len(scenes),
        "scenes_per_count": per_count.tolist(),
        "pixel_sum": scenes.pixel_sum,
        "sha256": scenes.sha256,
    }


def _mean_object_size(splits: DataSplits) -> list[float] | None:
    """Mean width and height in pixels; None if there is no object."""
    boxes = torch.cat([splits.train.boxes, splits.held_out.boxes]).flatten(0, 1)
    boxes = boxes[boxes.isfinite().all(dim=1)]
    if len(boxes) == 0:
        return None
    size = (boxes[:, 2:] - boxes[:, :2]).double().mean(dim=0)
    return [round(value, 2) for value in size.tolist()]


def _default_picture(name: str, data_root: Path | None) -> Path:
    return cache_path(name, data_root).with_name(f"{name}.png")


def _check_picture(path: Path, *, default: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"--picture {path} must end in .png: that is what is written.")
    if path.exists() and path.resolve() != default.resolve():
        raise ValueError(f"--picture {path} exists. Remove it or give another name.")


def _save_picture(splits: DataSplits, args: argparse.Namespace) -> str | None:
    """Draw some held-out scenes; the path, or None if the default one cannot be written."""
    scenes = splits.held_out[:_PICTURE_SCENES]
    drawn = draw_boxes(scenes.images, scenes.boxes, scenes.num_objects)
    grid = to_uint8(image_grid(drawn, columns=_PICTURE_COLUMNS, padding=4))
    content = io.BytesIO()
    Image.fromarray(grid.numpy()).save(content, format="PNG")
    default = _default_picture(splits.name, args.data_root)
    if args.picture is not None and args.picture.resolve() != default.resolve():
        # Again, and last: the file may have come into being since, or the data set be another
        # than the one that was asked for.
        _check_picture(args.picture, default=default)
        write_atomically(args.picture, lambda file: file.write(content.getvalue()))
        return str(args.picture)
    try:
        write_atomically(default, lambda file: file.write(content.getvalue()))
    except OSError as error:
        print(f"warning: no picture: {error}", file=sys.stderr)
        return None
    return str(default)


def _print_description(description: dict[str, Any]) -> None:
    size = description["mean_object_size"]
    print(f"{description['name']}: {description['description']}")
    print(f"image (C, H, W)    {tuple(description['image_shape'])}")
    for half, title in (("train", "train"), ("held_out", "held out")):
        part = description[half]
        counts = ", ".join(f"{n}: {number}" for n, number in enumerate(part["scenes_per_count"]))
        print(f"{title:<9}scenes    {part['scenes']} (of n objects {counts})")
        print(f"{'':<9}pixel sum {part['pixel_sum']}")
        print(f"{'':<9}SHA-256   {part['sha256']}")
    print(f"whole    pixel sum {description['pixel_sum']}")
    print(f"         SHA-256   {description['sha256']}")
    print(f"object   mean size {f'{size[0]} x {size[1]} px' if size else 'no objects'}")
    print(f"cache              {description['cache'] or 'none'}")
    print(f"picture            {description['picture'] or 'none'}")
    if description["shards"]:
        print(f"shards             {description['shards']}")
