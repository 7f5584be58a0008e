"""Files that a stranger might send, and every way by which a file gets in.

Run as a script it opens all of them in a process of little memory, and prints what came of it.
"""

import argparse
import copyreg
import functools
import hashlib
import io
import json
import os
import pickle
import resource
import struct
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from air import AIR, AIRConfig
from air.checkpoint import from_pretrained, save_pretrained
from air.images import read_image as read_library_image
from experiments.boilr_folder import read_config, read_log
from experiments.checkpoints import load_checkpoint, save_checkpoint
from experiments.datasets.folder import load_folder, parse_folder
from experiments.datasets.image_files import read_array, read_image, read_size
from experiments.datasets.image_labels import read_coco, read_counts
from experiments.datasets.mnist import read_idx
from experiments.datasets.multiobject import read_multiobject
from experiments.datasets.scenes import DataSplits, load_splits, save_splits
from experiments.datasets.shards import read_index, write_shards
from experiments.files import DamagedFileError
from experiments.locks import RunLock, RunLockedError
from experiments.resume import read_settings
from experiments.runs import Run
from tests.conftest import make_scenes
from tests.test_checkpoints import training, weights

MEMORY = 200 << 20
"""More than a process may ask for, on top of what it has, to open any of these files."""

SMALL = AIRConfig(
    canvas_size=(6, 6),
    glimpse_size=(4, 4),
    z_what_size=2,
    lstm_size=4,
    predictor_hidden=(3,),
    encoder_hidden=(3,),
    decoder_hidden=(3,),
)

ENTRIES = {}
"""By name: makes a good file in a folder, opens it, and the exceptions that may come of it."""

DOCUMENTED = (ValueError, FileNotFoundError)


def entry(name, file, make):
    """Register a way by which a file gets in."""

    def register(open_it):
        ENTRIES[name] = (file, make, open_it)
        return open_it

    return register


def make_pretrained(folder):
    torch.manual_seed(0)
    save_pretrained(AIR(SMALL), folder, overwrite=True)


def make_checkpoint(folder):
    save_checkpoint(folder, 7, weights(7), training(7))


def make_boilr_checkpoint(folder):
    torch.save(weights(7), folder / "model_7.pt")


def make_run(folder):
    arguments = {"dataset": "multi-mnist", "batch_size": 8}
    text = {
        "args": arguments,
        "air": AIRConfig(z_where_sd=(0.2, 1.15, 1.15)).to_dict(),
        "dataset": "multi-mnist",
    }
    (folder / "config.json").write_text(json.dumps(text))


def make_metrics(folder):
    path = Run(folder).metrics_path
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"step": 1, "elbo": 2.0}\n{"step": 9, "elbo": 3.0}\n')


def make_boilr_config(folder):
    path = Run(folder).boilr_config_path
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(pickle.dumps(argparse.Namespace(lr=0.1, dataset="x", resume=None)))


def make_boilr_log(folder):
    from boilr.utils.summarize import History

    histories = {"train": History(), "test": History()}
    for step, history in enumerate(histories.values()):
        history.add({"elbo": 0.5, "kl": np.float64(1.5)}, step)
    path = Run(folder).boilr_log_path
    path.parent.mkdir(exist_ok=True)
    log = {name: history.get_dict() for name, history in histories.items()}
    path.write_bytes(pickle.dumps(log))


def make_multiobject(folder, labels=None):
    if labels is None:
        shapes = [np.array([1, 2]), np.array([], dtype=np.int64), np.array([0])]
        labels = {"shape": shapes, "n_obj": np.array([2, 0, 1])}
    images = np.arange(3 * 4 * 5, dtype=np.uint8).reshape(3, 4, 5, 1)
    np.savez_compressed(folder / "file.npz", x=images, labels=labels)


def make_splits(folder):
    splits = DataSplits(train=make_scenes(4), held_out=make_scenes(2), name="x")
    save_splits(splits, folder / "x.npz")


def make_idx(folder):
    (folder / "idx").write_bytes(b"\0\0\x08\x02" + struct.pack(">II", 2, 3) + b"abcdef")


def make_picture(folder, name="a.png"):
    pixels = np.arange(12 * 10 * 3, dtype=np.uint8).reshape(12, 10, 3)
    Image.fromarray(pixels).save(folder / name)


def make_array(folder):
    np.save(folder / "a.npy", np.arange(60, dtype=np.uint8).reshape(3, 5, 4))


def make_images(folder):
    images = np.arange(4 * 9 * 8, dtype=np.uint16).astype(np.uint8).reshape(4, 9, 8)
    np.savez_compressed(folder / "x.npz", images=images, num_objects=np.array([0, 1, 2, 1]))


def make_counts(folder):
    (folder / "counts.csv").write_text("file,count\na.png,2\nb.png,0\n")


def make_coco(folder):
    boxes = [{"image_id": 1, "bbox": [0, 0, 2, 2], "category_id": 3}]
    images = [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}]
    (folder / "a.json").write_text(json.dumps({"images": images, "annotations": boxes}))


def make_lock(folder):
    content = {"host": "elsewhere", "pid": 1, "started": None}
    (folder / "lock.json").write_text(json.dumps(content))


@entry("pretrained weights", "model.safetensors", make_pretrained)
@entry("pretrained config", "config.json", make_pretrained)
@entry("pretrained preparation", "preprocessor_config.json", make_pretrained)
def open_pretrained(folder):
    return from_pretrained(folder)


@entry("checkpoint weights", "model_7.pt", make_checkpoint)
@entry("checkpoint tensors", "training_7.safetensors", make_checkpoint)
@entry("checkpoint facts", "training_7.json", make_checkpoint)
@entry("checkpoint manifest", "manifest_7.json", make_checkpoint)
@entry("boilr checkpoint", "model_7.pt", make_boilr_checkpoint)
def open_checkpoint(folder):
    return load_checkpoint(folder)


@entry("run settings", "config.json", make_run)
def open_run(folder):
    return read_settings(Run(folder))


@entry("metrics", "results/metrics.jsonl", make_metrics)
def open_metrics(folder):
    return Run(folder).drop_metrics_after(5)


@entry("boilr settings", "checkpoints/config.pkl", make_boilr_config)
def open_boilr_config(folder):
    return read_config(Run(folder).boilr_config_path)


@entry("boilr metrics", "results/log.pkl", make_boilr_log)
def open_boilr_log(folder):
    return read_log(Run(folder).boilr_log_path)


@entry("multiobject", "file.npz", make_multiobject)
def open_multiobject(folder):
    return read_multiobject(folder / "file.npz")


@entry("data set", "x.npz", make_splits)
def open_splits(folder):
    return load_splits(folder / "x.npz")


@entry("digits", "idx", make_idx)
def open_idx(folder):
    return read_idx(folder / "idx")


@entry("picture", "a.png", make_picture)
@entry("photograph", "a.png", lambda folder: make_jpeg(folder))
@entry("scan", "a.png", lambda folder: make_tiff(folder))
def open_picture(folder):
    height, width = read_size(folder / "a.png")
    return read_image(folder / "a.png", (min(height, 50), min(width, 50)))


@entry("picture of the library", "a.png", make_picture)
@entry("photograph of the library", "a.png", lambda folder: make_jpeg(folder))
@entry("scan of the library", "a.png", lambda folder: make_tiff(folder))
def open_library_picture(folder):
    return read_library_image(folder / "a.png")


@entry("array of the library", "a.npy", lambda folder: make_array(folder))
def open_library_array(folder):
    return read_library_image(folder / "a.npy")


@entry("images of the library", "x.npz", lambda folder: make_images(folder))
def open_library_images(folder):
    return read_library_image(folder / "x.npz")


@entry("shards", "index.json", lambda folder: make_shards(folder))
def open_index(folder):
    return read_index(folder)


def make_shards(folder):
    scenes = {"train": [make_scenes(2)], "held_out": [make_scenes(2)]}
    write_shards(folder, name="x", **scenes, z_where_mean=(3.0, 0.0, 0.0))


def make_jpeg(folder):
    make_picture(folder, "a.jpg")
    (folder / "a.jpg").rename(folder / "a.png")  # what a file is called means nothing


def make_tiff(folder):
    make_picture(folder, "a.tif")
    (folder / "a.tif").rename(folder / "a.png")


@entry("array", "a.npy", make_array)
def open_array(folder):
    return read_array(folder / "a.npy")


@entry("images", "x.npz", make_images)
def open_images(folder):
    return load_folder(parse_folder(f"folder:{folder / 'x.npz'}"))


@entry("counts", "counts.csv", make_counts)
def open_counts(folder):
    return read_counts(folder / "counts.csv", ["a.png", "b.png"])


@entry("annotations", "a.json", make_coco)
def open_coco(folder):
    return read_coco(folder / "a.json", ["a.png", "b.png"])


@entry("lock", "lock.json", make_lock)
def open_lock(folder):
    try:
        RunLock(folder).check()
    except RunLockedError as error:
        raise DamagedFileError(str(error)) from error  # its documented exception


# The corpus


class Bomb:
    """Unpickling it makes a file."""

    canary = "canary"

    def __reduce__(self):
        return os.mkdir, (self.canary,)


class BuildBomb:
    """An allowed class, filled by a call."""

    def __reduce__(self):
        return copyreg._reconstructor, (Bomb, object, None)


def pickles():
    """Pickles that run code, or eat memory."""
    bomb = Bomb()
    yield "reduce", pickle.dumps(bomb)
    for protocol in range(6):
        yield (
            f"reduce in settings, {protocol}",
            pickle.dumps(argparse.Namespace(lr=bomb), protocol=protocol),
        )
    yield "global", b"cposix\nsystem\n(S'mkdir canary'\ntR."
    yield "inst", b"(S'mkdir canary'\niposix\nsystem\n."
    yield "object", b"(cposix\nsystem\nS'mkdir canary'\no."
    yield "stack global", b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x0cmkdir canary\x85R."
    yield "class path", b"\x80\x04\x8c\x08argparse\x8c\x12Namespace.__init__\x93)R."
    yield "attribute of an allowed module", b"cnumpy\nload\n(S'x'\ntR."
    yield "numpy's own eval", b"\x80\x04\x8c\x12numpy.testing._private.utils\x94\x8c\x07runstr\x93."
    yield "extension", b"\x80\x02\x82\x01."
    yield "persistent", b"\x80\x02\x8c\x01xQ."
    yield "copyreg", pickle.dumps(BuildBomb())
    yield (
        "array of 2^40",
        (
            b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93"
            b"\x8c\x05numpy\x8c\x07ndarray\x93\x8a\x06\x00\x00\x00\x00\x00\x01\x85C\x01b\x87R."
        ),
    )
    yield (
        "array whose state is of 2^40",
        (
            b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93"
            b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"
            b"(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85\x8c\x05numpy\x8c\x05dtype\x93"
            b"\x8c\x02u1\x89\x88\x87R\x89C\x01xtb."
        ),
    )
    tree = b"N" + b"q\x00h\x00\x86" * 60  # a tuple of one tuple twice, and so on
    yield "tree as a name", b"\x80\x04" + tree + b"h\x00\x93."
    yield "tree as a module", b"\x80\x04" + tree + b"\x8c\x05dtype\x93."
    yield "tree as a type", b"\x80\x04cnumpy\ndtype\n" + tree + b"\x85R."
    yield (
        "array of objects of 0 times 2^63",
        (
            b"\x80\x04\x8c\x16numpy._core.multiarray\x8c\x0c_reconstruct\x93"
            b"\x8c\x05numpy\x8c\x07ndarray\x93K\x00\x85C\x01b\x87R"
            b"(K\x01K\x00\x8a\x09\x00\x00\x00\x00\x00\x00\x00\x80\x00\x86"
            b"\x8c\x05numpy\x8c\x05dtype\x93\x8c\x02O8\x89\x88\x87R\x89]tb."
        ),
    )
    yield "bytes of 2^40", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"x."
    yield "text of 2^40", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"x."
    yield "number of 2^31", b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x."
    yield "memo of 2^32", b"\x80\x02Nr" + struct.pack("<I", (1 << 32) - 1) + b"."
    yield "nested keys", b"\x80\x02}" + b"N" + b"\x85" * 200_000 + b"Ns."
    yield "nested lists", b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    yield "a list in itself", b"\x80\x02]q\x00h\x00a."
    laughs = b"\x80\x02](]q\x00"
    for _ in range(60):
        laughs += b"]q\x01(" + b"h\x00" * 60 + b"eq\x00"
    yield "a billion laughs", laughs + b"e."
    yield "no end", b"\x80\x02" + b"N" * 1000
    yield "nothing", b""
    yield "underflow", b"\x80\x02R."


def headers():
    """Safetensors headers that lie."""

    def file(header, data=b"\0" * 16):
        text = header if isinstance(header, bytes) else json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    def one(**changes):
        return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | changes}

    yield "longer than the file", struct.pack("<Q", 1 << 40) + b"{}"
    yield "longer than any", struct.pack("<Q", (1 << 64) - 1)
    yield "20 MB of header", file(b"{" + b" " * (20 << 20) + b"}")
    yield "shape of 2^40", file(one(shape=[1 << 40]))
    yield "shape of 2^40 and offsets", file(one(shape=[1 << 40], data_offsets=[0, 1 << 42]))
    yield "shape that overflows", file(one(shape=[1 << 40, 1 << 40]))
    yield "negative shape", file(one(shape=[-4]))
    yield "negative offset", file(one(data_offsets=[-16, 0]))
    yield "no shape", file({"a": {"dtype": "F32", "data_offsets": [0, 16]}})
    yield "another type", file(one(dtype="__import__('os')"))
    yield "overlap", file({**one(), "b": one()["a"]})
    yield "no object", file([1, 2])
    yield "not JSON", file(b"{" * 1000)
    yield "deep", file(b'{"a":' + b"[" * 100_000)
    yield "short", b"\x01\x02"


def texts():
    """JSON that is hard to swallow, or wants to be code."""
    yield "deep", b"[" * 200_000
    yield "deep object", b'{"args":' * 100_000
    yield "long number", b'{"step": ' + b"9" * 100_000 + b"}"
    huge = b"1" + b"0" * 400
    yield "beyond a float", b'{"step": %s, "lr": %s}' % (huge, huge)
    for name in ("likelihood_sd", "decoder_bias", "contrast", "scale"):
        yield f"{name} beyond a float", b'{"%s": %s}' % (name.encode(), huge)
    yield "infinite", b'{"step": 1e999, "args": {}, "air": {}, "dataset": "x"}'
    yield "NaN", b'{"step": NaN}'
    yield "no UTF-8", b"\xff\xfe\x00"
    yield "target", b'{"_target_": "os.system", "args": {"_target_": "os.mkdir"}}'
    for name in ("lstm_size", "z_what_size", "max_objects", "channels"):
        yield f"10^9 {name}", json.dumps({name: 10**9}).encode()
    yield "10^9 canvas", json.dumps({"canvas_size": [10**9, 10**9]}).encode()
    yield "10^9 hidden", json.dumps({"encoder_hidden": [10**9] * 3}).encode()
    many = json.dumps({"decoder_hidden": [1] * 200_000}).encode()
    yield "many layers", many
    yield "target in config", json.dumps({"_target_": "os.mkdir", "_args_": ["canary"]}).encode()
    config = {"args": {}, "air": {"_target_": "os.mkdir"}, "dataset": "../../x"}
    yield "target in a run", json.dumps(config).encode()


def archives():
    """Archives that unpack to too much, or elsewhere, or to code."""

    def archive(members, compression=zipfile.ZIP_DEFLATED):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", compression) as file:
            for name, data in members:
                file.writestr(name, data)
        return content.getvalue()

    def array(header, data=b""):
        text = header.encode().ljust(118) + b"\n"
        return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data

    huge = array("{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776, 4, 4, 1)}")
    names = ["x", "labels"]
    split_names = [
        f"{split}_{field}"
        for split in ("train", "held_out")
        for field in ("images", "num_objects", "classes", "boxes", "masks", "name")
    ] + ["name", "checksum"]
    unpacked = 250 << 20

    def bomb(names):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            with file.open(names[0], "w") as member:
                header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d,)}"
                member.write(array(header % unpacked))
                for _ in range(unpacked >> 20):
                    member.write(bytes(1 << 20))
            for name in names[1:]:
                file.writestr(name, b"")
        return content.getvalue()

    own = ["images", "num_objects"]
    for kind, members in (("multiobject", names), ("data set", split_names), ("images", own)):
        yield f"{kind}: shape of 2^40", archive([(f"{name}.npy", huge) for name in members])
        yield f"{kind}: zip bomb", bomb([f"{name}.npy" for name in members])
        outside = [(f"{name}.npy", huge) for name in members] + [("../canary", b"x")]
        yield f"{kind}: a member outside", archive(outside)
        twice = [(f"{name}.npy", huge) for name in members]
        with_pickle = [
            (f"{name}.npy", array("{'descr': '|O', 'fortran_order': False, 'shape': ()}", p))
            for name in members
            for p in [pickle.dumps(Bomb())]
        ]
        yield f"{kind}: pickles", archive(with_pickle)
        code = array("{'descr': __import__('os').mkdir('canary'), 'shape': ()}")
        yield f"{kind}: code in a header", archive([(f"{name}.npy", code) for name in members])
        deep = array("(" * 5000)
        yield f"{kind}: deep header", archive([(f"{name}.npy", deep) for name in members])
        # The directory says one byte, the member unpacks to more.
        lying = bytearray(archive(twice))
        for position in range(len(lying) - 4):
            if lying[position : position + 4] == b"PK\x01\x02":
                lying[position + 24 : position + 28] = struct.pack("<I", 1)
        yield f"{kind}: a lying directory", bytes(lying)
    content = io.BytesIO()
    torch.save({"air.weight": Bomb()}, content)
    yield "torch: code", content.getvalue()
    content = io.BytesIO()
    torch.save({"air.weight": torch.zeros(1).expand(1 << 40)}, content)
    yield "torch: an expanded tensor", content.getvalue()
    content = io.BytesIO()
    torch.save({"air.weight": torch.zeros(100_000_000, dtype=torch.uint8)}, content)
    with zipfile.ZipFile(content) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    yield "torch: zip bomb", archive(members)
    yield "torch: legacy code", pickle.dumps(Bomb())
    yield "idx of 2^60", b"\0\0\x08\x02" + b"\xff" * 8 + b"x"


def pictures():
    """Pictures that unpack to too much, or whose parts point anywhere."""

    def png(width, height, *chunks):
        parts = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), *chunks]
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
            for kind, data in [*parts, (b"IEND", b"")]
        )

    rows = zlib.compress(bytes(250 << 20), 1)
    pixels = (b"IDAT", rows)
    yield "2^31 wide", png((1 << 31) - 1, (1 << 31) - 1, pixels)
    yield "16 000 wide", png(16_000, 16_000, pixels)
    yield "no pixels", png(0, 0, pixels)
    yield "more data than pixels", png(4, 4, pixels)
    yield "text that unpacks", png(4, 4, (b"zTXt", b"a\0\0" + rows), pixels)
    yield "profile that unpacks", png(4, 4, (b"iCCP", b"a\0\0" + rows), pixels)
    yield "2^32 frames", png(4, 4, (b"acTL", b"\xff" * 8), pixels)

    def tiff(*entries, end=0):
        body = b"".join(struct.pack("<HHII", *entry) for entry in entries)
        directory = struct.pack("<H", len(entries)) + body + struct.pack("<I", end)
        return b"II*\0" + struct.pack("<I", 8) + directory + bytes(64)

    size = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1)]
    strip = [(273, 4, 1, 8), (278, 4, 1, 8), (279, 4, 1, 64)]
    yield "directories in a circle", tiff(*size, *strip, end=8)
    yield "2^32 wide", tiff((256, 4, 1, 0xFFFFFFFF), (257, 4, 1, 0xFFFFFFFF), *size[2:], *strip)
    yield "strip at 2^32", tiff(*size, (273, 4, 1, 0xFFFFFFFF), *strip[1:])
    yield "2^30 strips", tiff(*size, (273, 4, 1 << 30, 8), *strip[1:])
    yield "2^32 samples", tiff(*size[:4], (277, 3, 0x7FFFFFFF, 1), *strip)
    start = b"\xff\xd8\xff\xc0\x00\x11\x08\xff\xff\xff\xff\x03\x01\x22\0\x02\x11\1\x03\x11\1"
    yield "JPEG, 65 535 wide", start + b"\xff\xda"
    yield "EPS", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(canary) (w) file\n"
    yield "CSV of one cell", b"file,count\n" + b'"' * 1_000_001
    yield "CSV of many lines", b"file,count\n" + b"a,1\n" * 300_000


def corpus():
    """All of it, by name."""
    for source in (pickles, headers, texts, archives, pictures):
        for name, content in source():
            yield f"{source.__name__}: {name}", content


def with_labels(content):
    """A multiobject file whose labels are these pickled bytes."""
    file = io.BytesIO()
    np.savez(file, x=np.zeros((1, 4, 4, 1), np.uint8), labels=np.array({}, dtype=object))
    members = {}
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    header = members["labels.npy"][:128]
    members["labels.npy"] = header + content
    result = io.BytesIO()
    with zipfile.ZipFile(result, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return result.getvalue()


@functools.cache
def good_files(name):
    """A folder that an entry opens, as names and contents."""
    _, make, _ = ENTRIES[name]
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
        paths = [path for path in Path(temporary).rglob("*") if path.is_file()]
        return {path.relative_to(temporary): path.read_bytes() for path in paths}


def try_entry(name, content):
    """Put this content where an entry reads it; how it ended, unless in a documented exception."""
    file, _, open_it = ENTRIES[name]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for path, good in good_files(name).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(good)
        (folder / file).write_bytes(content)
        manifest = folder / "manifest_7.json"
        if manifest.exists() and file != manifest.name:  # a stranger can write a manifest, too
            signed = json.loads(manifest.read_bytes())
            digest = hashlib.sha256(content).hexdigest()
            signed["files"][file] = {"bytes": len(content), "sha256": digest}
            manifest.write_text(json.dumps(signed))
        try:
            open_it(folder)
        except DOCUMENTED:
            return None
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:300]
        return "opened"


FITTING = {
    "pickles": {"boilr settings", "boilr metrics", "checkpoint weights", "boilr checkpoint"},
    "headers": {"pretrained weights", "checkpoint tensors"},
    "texts": {
        "pretrained config",
        "checkpoint facts",
        "checkpoint manifest",
        "run settings",
        "metrics",
        "lock",
        "annotations",
        "pretrained preparation",
        "shards",
    },
    "archives": {
        "multiobject",
        "data set",
        "images",
        "checkpoint weights",
        "boilr checkpoint",
        "digits",
    },
    "pictures": {"picture", "counts"},
}
"""Which entries read what kind of file; the others see a few of them only."""


def memory(field):
    """A figure of this process's memory, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) << 10


def main(work, share):
    """Open everything where it fits, and each ``share``-th pair of the others."""
    os.chdir(work)
    paths = []  # written before the memory is counted
    for name, content in corpus():
        paths.append((name, Path(work) / f"{len(paths)}.bin"))
        paths[-1][1].write_bytes(content)
    del content
    for name in ENTRIES:
        good_files(name)
    # The least that the system can promise: it kills none that asks for more, it refuses.
    limit = memory("VmSize") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    results = []
    for name, path in paths:
        data = path.read_bytes()
        for target in ENTRIES:
            fits = target in FITTING[name.split(":")[0]]
            if fits or len(results) % share == 0:
                results.append((name, target, try_entry(target, data)))
            else:
                results.append((name, target, "left out"))
        if name.startswith("pickles"):
            results.append((name, "labels", try_entry("multiobject", with_labels(data))))
        del data
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
