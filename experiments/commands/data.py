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
    find_spec,
)
from experiments.datasets.multiobject import write_multiobject
from experiments.datasets.shards import check_writable, read_index, verify_shards, write_shards
from experiments.datasets.sources import (
    FOLDER,
    SHARDS,
    ScalePrior,
    cached_file,
    describe_names,
    estimate_prior,
    folder_name,
    known_prior,
    open_dataset,
)
from experiments.files import write_file

__all__ = ["add_arguments", "run"]

_PICTURE_SCENES = 48
_PICTURE_COLUMNS = 8
_OTHERS = {
    "scenes:KEY=VALUE,...": "scenes made to order, as scenes:canvas=100,max_objects=6,noise=0.05",
    "folder:PATH": "your own images: PNG, JPEG, TIFF, .npy, .npz",
    "shards:FOLDER": "what --write-shards wrote",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of this command."""
    parser.add_argument(
        "name",
        nargs="?",
        metavar="NAME",
        help=f"data set to make and describe, one of: {describe_names()}; the last checks every "
        "file of a folder of shards; without it, list them",
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
        "--write-multiobject",
        type=Path,
        metavar="PATH.npz",
        help="write the data set as the package multiobject reads it; must not exist",
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
        elif args.name.startswith(SHARDS):
            _verify_shards(args.name.removeprefix(SHARDS), as_json=args.json)
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
    for name, description in _OTHERS.items():
        print(f"{name:<{width}}  {description}")


def _describe(args: argparse.Namespace) -> None:
    # Before the work, not after it.
    if args.write_shards is not None:
        check_writable(args.write_shards, args.shard_size)
    if args.picture is not None:
        _check_picture(args.picture, default=_default_picture(args.name, args.data_root))
    if args.write_multiobject is not None:
        _check_npz(args.write_multiobject)
    start = time.perf_counter()
    splits = open_dataset(args.name, data_root=args.data_root, mnist_root=args.mnist_root)
    assert isinstance(splits, DataSplits)
    seconds = time.perf_counter() - start
    cache = cached_file(splits.name, args.data_root)
    estimated = _estimate(splits)
    description = {
        **_facts_of(splits, estimated),
        "requested": args.name,
        "image_shape": list(splits.train.images.shape[1:]),
        "train": _describe_scenes(splits.train),
        "held_out": _describe_scenes(splits.held_out),
        "pixel_sum": splits.pixel_sum,
        "sha256": splits.sha256,
        "mean_object_size": _mean_object_size(splits),
        "estimate": None if estimated is None else estimated.source,
        "doubt": None if estimated is None else estimated.doubt,
        "cache": str(cache) if cache.is_file() else None,
        "picture": _save_picture(splits, args),
        "shards": _write_shards(splits, args),
        "multiobject": _write_multiobject(splits, args),
        "seconds": round(seconds, 2),
    }
    if args.json:
        print(json.dumps(description))
    else:
        _print_description(description)


def _write_shards(splits: DataSplits, args: argparse.Namespace) -> str | None:
    if args.write_shards is None:
        return None
    prior = known_prior(splits.name) or estimate_prior(splits)
    write_shards(
        args.write_shards,
        name=splits.name,
        train=[splits.train],
        held_out=[splits.held_out],
        z_where_mean=prior.mean,
        z_where_sd=prior.sd,
        shard_size=args.shard_size,
    )
    return str(args.write_shards)


def _write_multiobject(splits: DataSplits, args: argparse.Namespace) -> str | None:
    if args.write_multiobject is None:
        return None
    _check_npz(args.write_multiobject)  # it may have come into being since
    write_multiobject(splits, args.write_multiobject)
    return str(args.write_multiobject)


def _check_npz(path: Path) -> None:
    if path.suffix != ".npz":
        raise ValueError(f"--write-multiobject {path} must end in .npz: that is what is written.")
    if path.exists():
        raise ValueError(f"--write-multiobject {path} exists. Remove it or give another name.")


def _estimate(splits: DataSplits) -> ScalePrior | None:
    """The prior that the images alone suggest; None if nothing stands out in them."""
    try:
        return estimate_prior(splits)
    except ValueError as error:
        print(f"warning: {error}", file=sys.stderr)
        return None


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
        "z_where_sd": list(spec.z_where_sd),
    }


def _facts_of(splits: DataSplits, estimated: ScalePrior | None) -> dict[str, Any]:
    """The same of a data set that is at hand, whatever it is."""
    if not splits.name.startswith(FOLDER):
        return _facts(find_spec(splits.name))
    channels, height, width = splits.train.images.shape[1:]
    return {
        "name": splits.name,
        "description": "your own images",
        "max_count": splits.train.max_count if splits.train.is_counted else None,
        "canvas_size": [height, width],
        "channels": channels,
        "z_where_mean": None if estimated is None else list(estimated.mean),
        "z_where_sd": None if estimated is None else list(estimated.sd),
    }


def _describe_scenes(scenes: Scenes) -> dict[str, Any]:
    per_count = None
    if scenes.is_counted:
        per_count = scenes.num_objects.bincount(minlength=scenes.max_count + 1).tolist()
    return {
        "scenes": len(scenes),
        "scenes_per_count": per_count,
        "pixel_sum": scenes.pixel_sum,
        "sha256": scenes.sha256,
    }


def _mean_object_size(splits: DataSplits) -> list[float] | None:
    """Mean width and height in pixels; None if there is no object."""
    boxes = torch.cat([half.boxes.flatten(0, 1) for half in (splits.train, splits.held_out)])
    boxes = boxes[boxes.isfinite().all(dim=1)]
    if len(boxes) == 0:
        return None
    size = (boxes[:, 2:] - boxes[:, :2]).double().mean(dim=0)
    return [round(value, 2) for value in size.tolist()]


def _default_picture(name: str, data_root: Path | None) -> Path:
    return cached_file(name, data_root).with_name(f"{folder_name(name)}.png")


def _check_picture(path: Path, *, default: Path) -> None:
    if path.suffix.lower() != ".png":
        raise ValueError(f"--picture {path} must end in .png: that is what is written.")
    if path.exists() and path.resolve() != default.resolve():
        raise ValueError(f"--picture {path} exists. Remove it or give another name.")


def _save_picture(splits: DataSplits, args: argparse.Namespace) -> str | None:
    """Draw some held-out scenes; the path, or None if the default one cannot be written."""
    scenes = splits.held_out[:_PICTURE_SCENES]
    boxed = scenes.boxes.isfinite().all(dim=2).sum(dim=1)  # none where they are unknown
    drawn = draw_boxes(scenes.images, scenes.boxes, boxed)
    grid = to_uint8(image_grid(drawn, columns=_PICTURE_COLUMNS, padding=4))
    content = io.BytesIO()
    Image.fromarray(grid.numpy()).save(content, format="PNG")
    default = _default_picture(splits.name, args.data_root)
    if args.picture is not None and args.picture.resolve() != default.resolve():
        # Again, and last: the file may have come into being since, or the data set be another
        # than the one that was asked for.
        _check_picture(args.picture, default=default)
        write_file(args.picture, content.getvalue())
        return str(args.picture)
    try:
        write_file(default, content.getvalue())
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
        per_count = part["scenes_per_count"]
        counts = "numbers of objects unknown"
        if per_count is not None:
            listed = ", ".join(f"{n}: {number}" for n, number in enumerate(per_count))
            counts = f"of n objects {listed}"
        print(f"{title:<9}scenes    {part['scenes']} ({counts})")
        print(f"{'':<9}pixel sum {part['pixel_sum']}")
        print(f"{'':<9}SHA-256   {part['sha256']}")
    print(f"whole    pixel sum {description['pixel_sum']}")
    print(f"         SHA-256   {description['sha256']}")
    print(f"object   mean size {f'{size[0]} x {size[1]} px' if size else 'unknown'}")
    print(f"images say         {description['estimate'] or 'nothing'}")
    if description["doubt"]:
        print(f"         but       {description['doubt']}")
    print(f"prior of z_where   {description['z_where_mean']}, sd {description['z_where_sd']}")
    print(f"cache              {description['cache'] or 'none'}")
    print(f"picture            {description['picture'] or 'none'}")
    for what in ("shards", "multiobject"):
        if description[what]:
            print(f"{what:<18} {description[what]}")
