"""Shards: what is written is read, each scene once, and a folder that lies is refused."""

import json
from itertools import chain

import numpy as np
import pytest
import torch

from experiments import distributed
from experiments.cli import main
from experiments.datasets import DamagedFileError
from experiments.datasets.sharded_scenes import ShardedScenes, open_shards
from experiments.datasets.shards import read_index, verify_shards, write_shards
from experiments.datasets.sources import check_dataset, folder_name, known_prior, open_dataset
from experiments.experiment import AIRExperiment
from experiments.loaders import SceneManager
from experiments.shard_loader import ShardLoader
from experiments.trainer import Trainer
from tests.conftest import make_scenes
from tests.distributed_worker import numbered

CPU = torch.device("cpu")
FIELDS = ("images", "num_objects", "classes", "boxes")


@pytest.fixture
def folder(tmp_path):
    """23 scenes to learn from, in shards of 5, and 7 held out."""
    write_shards(
        tmp_path / "tiny",
        name="tiny",
        train=[numbered(12), numbered(23)[12:]],
        held_out=[make_scenes(7, seed=1)],
        z_where_mean=(2.5, 0.1, 0.2),
        shard_size=5,
    )
    return tmp_path / "tiny"


def loader(folder, *, batch_size=4, **options):
    scenes = ShardedScenes(read_index(folder), "train")
    return ShardLoader(scenes, batch_size=batch_size, device=CPU, **options)


def positions(batches):
    return [images[:, 0, 0, 0].tolist() for images, _ in batches]


def edit_index(folder, edit):
    path = folder / "index.json"
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


# Written and read


def test_what_is_written_is_read(folder):
    index = read_index(folder)
    assert (index.name, index.image_shape, index.max_count) == ("tiny", (1, 18, 16), 2)
    assert index.sizes == {"train": (5, 5, 2, 5, 5, 1), "held_out": (5, 2)}
    splits = open_shards(folder)
    assert splits.name == f"shards:{folder}"
    for found, expected in (
        (splits.train.load(), numbered(23)),
        (splits.held_out, make_scenes(7, seed=1)),
    ):
        for field in FIELDS:
            torch.testing.assert_close(
                getattr(found, field), getattr(expected, field), rtol=0, atol=0, equal_nan=True
            )


@pytest.mark.parametrize(("start", "stop"), [(0, 23), (3, 4), (4, 6), (5, 10), (9, 13), (22, 23)])
def test_any_adjacent_scenes_can_be_read(folder, start, stop):
    scenes = ShardedScenes(read_index(folder), "train")
    assert scenes.read("images", start, stop)[:, 0, 0, 0].tolist() == list(range(start, stop))
    part = scenes.part(slice(start, stop))
    assert len(part) == stop - start
    assert part.read("images", 0, len(part))[:, 0, 0, 0].tolist() == list(range(start, stop))
    assert part.num_objects.tolist() == [scene % 3 for scene in range(start, stop)]
    image, num_objects = part[0]
    assert (int(image[0, 0, 0]), int(num_objects)) == (start, start % 3)


def test_what_is_read_is_a_copy(folder):
    scenes = ShardedScenes(read_index(folder), "train")
    scenes.read("images", 0, 5).zero_()
    assert scenes.read("images", 1, 2)[0, 0, 0, 0] == 1


def test_every_file_is_verified(folder):
    assert len(list(verify_shards(read_index(folder)))) == 4 * (6 + 2)


def test_a_folder_that_holds_something_is_left_alone(folder):
    before = (folder / "index.json").read_bytes()
    with pytest.raises(FileExistsError, match="not empty"):
        write_shards(folder, name="x", train=[make_scenes(2)], held_out=[make_scenes(2)])
    assert (folder / "index.json").read_bytes() == before


def test_nothing_to_write_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="held_out of x holds no scene"):
        write_shards(tmp_path / "x", name="x", train=[make_scenes(2)], held_out=[])
    with pytest.raises(FileNotFoundError, match=r"no index.json.*interrupted"):
        read_index(tmp_path / "x")
    with pytest.raises(ValueError, match="at least 1 scene"):
        write_shards(tmp_path / "y", name="y", train=[make_scenes(2)], held_out=[], shard_size=0)


def test_chunks_of_different_shapes_are_refused(tmp_path):
    chunks = [make_scenes(2), make_scenes(2, max_count=1)]
    with pytest.raises(ValueError, match="one shape"):
        write_shards(tmp_path / "x", name="x", train=chunks, held_out=[make_scenes(2)])


# Batches


@pytest.mark.parametrize("window_bytes", [1, 6 * 288, 1 << 20])
def test_a_pass_reads_every_scene_at_most_once_and_only_the_last_few_not(folder, window_bytes):
    torch.manual_seed(0)
    batches = loader(folder, window_bytes=window_bytes, block_size=3)
    left_out = set()
    orders = set()
    for _ in range(30):
        epoch = positions(batches)
        assert [len(batch) for batch in epoch] == [4] * len(batches) == [4] * 5
        seen = list(chain(*epoch))
        assert len(set(seen)) == 20
        left_out |= set(range(23)) - set(seen)
        orders.add(tuple(seen))
    assert left_out == set(range(23))
    assert len(orders) == 30


def test_images_and_labels_stay_together(folder):
    for images, num_objects in loader(folder, block_size=2):
        assert images.dtype == torch.uint8
        assert num_objects.dtype == torch.int64
        assert (num_objects == images[:, 0, 0, 0] % 3).all()


def test_a_batch_larger_than_the_window_is_whole(folder):
    assert [len(batch) for batch in positions(loader(folder, batch_size=11, window_bytes=1))] == [
        11,
        11,
    ]


def test_only_the_window_is_in_memory(folder, monkeypatch):
    held = []
    read = ShardedScenes.read

    def watch(self, field, start, stop):
        held.append((field, stop - start))
        return read(self, field, start, stop)

    monkeypatch.setattr(ShardedScenes, "read", watch)
    batches = iter(loader(folder, window_bytes=2 * 3 * 288, block_size=3))
    next(batches)
    assert sum(number for field, number in held if field == "images") <= 2 * 3


@pytest.mark.parametrize("window_bytes", [1, 6 * 288, 1 << 20])
def test_a_pass_can_be_entered_anywhere(folder, window_bytes):
    batches = loader(folder, window_bytes=window_bytes, block_size=3)
    order = batches.draw_order()
    whole = list(batches.batches(order))
    assert len(whole) == 5
    for start in range(6):
        rest = list(batches.batches(order, start))
        assert len(rest) == 5 - start
        for (images, num_objects), expected in zip(rest, whole[start:], strict=True):
            assert torch.equal(images, expected[0])
            assert torch.equal(num_objects, expected[1])


def test_a_seed_is_checked(folder):
    batches = loader(folder)
    batches.check_order(batches.draw_order())
    for order in (torch.zeros(2, dtype=torch.int64), torch.zeros(1)):
        with pytest.raises(ValueError, match="no seed"):
            batches.check_order(order)


@pytest.mark.parametrize("batch_size", [0, 24])
def test_a_batch_of_nothing_or_too_much_is_an_error(folder, batch_size):
    with pytest.raises(ValueError, match="batch size"):
        loader(folder, batch_size=batch_size)


def test_all_processes_take_the_same_number_of_steps_on_parts_of_their_own(folder, monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    seen, lengths = [], set()
    scenes = ShardedScenes(read_index(folder), "train")
    for rank in range(3):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        part = scenes.part(distributed.own_range(len(scenes)))
        batches = ShardLoader(part, batch_size=6, device=CPU, block_size=2)
        lengths.add(len(batches))
        epoch = positions(batches)
        assert [len(batch) for batch in epoch] == [2] * len(batches)
        seen += chain(*epoch)
    assert lengths == {3}
    assert len(set(seen)) == len(seen) == 18


def test_a_process_opens_only_the_files_of_its_part(folder):
    scenes = ShardedScenes(read_index(folder), "train")
    (folder / "train" / "images_00000.npy").unlink()
    ShardLoader(scenes.part(slice(5, 23)), batch_size=4, device=CPU)
    with pytest.raises(DamagedFileError, match=r"images_00000\.npy is missing"):
        ShardLoader(scenes.part(slice(4, 23)), batch_size=4, device=CPU)


# Folders that are not what they say


def save(path, array):
    np.save(path, array)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "empty": lambda path: path.write_bytes(b""),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"0"),
    "type": lambda path: save(path, np.load(path).astype(np.float32)),
    "shape": lambda path: save(path, np.load(path)[:, :, 1:]),
    "fewer": lambda path: save(path, np.load(path)[1:]),
    "order": lambda path: save(path, np.asfortranarray(np.load(path))),
    "pickle": lambda path: np.save(path, np.array([{}] * 5), allow_pickle=True),
    "text": lambda path: path.write_text("no array"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_shard_is_found_before_training(folder, kind):
    DAMAGE[kind](folder / "train" / "images_00002.npy")
    with pytest.raises(DamagedFileError, match=r"images_00002\.npy"):
        loader(folder)
    DAMAGE[kind](folder / "held_out" / "images_00001.npy")
    with pytest.raises(DamagedFileError, match=r"images_00001\.npy"):
        open_shards(folder)


def test_an_altered_pixel_is_found_by_verification(folder):
    path = folder / "held_out" / "images_00001.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"images_00001\.npy is damaged: its checksum"):
        list(verify_shards(read_index(folder)))


def test_labels_outside_of_what_the_index_says_are_refused(folder, make_args):
    path = folder / "train" / "num_objects_00003.npy"
    for wrong in (-1, 3):
        save(path, np.array([0, 1, 2, wrong, 0]))
        with pytest.raises(DamagedFileError, match="the index says 0 to 2"):
            SceneManager(make_args(dataset=f"shards:{folder}"), CPU)


@pytest.mark.parametrize(
    "edit",
    [
        lambda index: index.pop("train"),
        lambda index: index.update(format="other"),
        lambda index: index.update(image_shape=[18, 16]),
        lambda index: index.update(image_shape=[1, 18, 0]),
        lambda index: index.update(image_shape=[1, 18, "16"]),
        lambda index: index.update(max_count=True),
        lambda index: index.update(z_where_mean=[1, 2]),
        lambda index: index["train"].update(num_scenes=24),
        lambda index: index["train"]["shards"].pop(),
        lambda index: index["train"].update(num_scenes=0, shards=[]),
        lambda index: index["train"]["shards"][0].update(num_scenes=-5),
        lambda index: index["train"]["shards"][0].update(num_scenes=5.0),
        lambda index: index["train"]["shards"][0]["sha256"].pop("boxes"),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(folder, edit):
    edit_index(folder, edit)
    with pytest.raises(DamagedFileError, match=r"index\.json is no index of shards"):
        read_index(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe\x00", b"3", b"[" * 100_000])
def test_no_index_at_all_is_refused(folder, content):
    (folder / "index.json").write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"index\.json"):
        read_index(folder)


def test_an_index_that_lies_about_the_shards_is_found(folder):
    def swap(index):
        shards = index["train"]["shards"]
        shards[1]["num_scenes"], shards[2]["num_scenes"] = 2, 5

    edit_index(folder, swap)
    with pytest.raises(DamagedFileError, match=r"uint8 of shape \(5, 1, 18, 16\), but its index"):
        loader(folder)


# By name


def test_names_of_data_sets(folder, tmp_path):
    name = f"shards:{folder}"
    check_dataset(name)
    assert known_prior(name).mean == (2.5, 0.1, 0.2)
    assert known_prior("multi-mnist").mean == (3.0, 0.0, 0.0)
    assert (folder_name(name), folder_name("multi-mnist")) == ("shards-tiny", "multi-mnist")
    assert len(open_dataset(name).train) == 23
    with pytest.raises(FileNotFoundError, match="holds no index"):
        check_dataset(f"shards:{tmp_path}")
    with pytest.raises(ValueError, match=r"unknown data set 'shard'.*shards:FOLDER"):
        check_dataset("shard")


def test_a_registered_data_set_is_written_and_checked(tiny_data, tmp_path, capsys):
    out = tmp_path / "shards"
    arguments = ["data", "multi-mnist", "--write-shards", str(out), "--shard-size", "8", "--json"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["shards"] == str(out)
    assert torch.equal(open_shards(out).train.load().images, tiny_data.train.images)
    assert main(arguments) == 2
    assert "not empty" in capsys.readouterr().err
    assert main(["data", f"shards:{out}", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["train"], facts["held_out"], facts["files"]) == (26, 10, 4 * (4 + 2))
    assert main(["data", f"shards:{out}"]) == 0
    assert "24 files, all as written" in capsys.readouterr().out
    (out / "train" / "boxes_00003.npy").unlink()
    assert main(["data", f"shards:{out}"]) == 2
    assert "boxes_00003.npy is missing" in capsys.readouterr().err


def test_a_model_is_trained_and_evaluated_on_shards(folder, make_args, capsys):
    args = make_args(dataset=f"shards:{folder}", run_name=None)
    trainer = Trainer(AIRExperiment(args))
    assert trainer.experiment.model.air.config.z_where_mean == (2.5, 0.1, 0.2)
    trainer.run()
    run = trainer.run_folder
    assert run.name.endswith("shards-tiny_enumerate_seed0")
    assert run.read_config()["dataset"] == f"shards:{folder}"
    arguments = ["evaluate", "--load", run.name, "--output", args.output, "--samples", "0"]
    assert main([*arguments, "--nocuda", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["num_images"] == 7
    assert list(run.result_folder.glob("evaluation_step4_shards-tiny_7scenes_*.json"))


def test_shards_that_the_model_cannot_count_are_refused(folder, make_args):
    with pytest.raises(ValueError, match=r"max_objects = 1.*Raise --max-objects to 2"):
        SceneManager(make_args(dataset=f"shards:{folder}", max_objects=1), CPU)
