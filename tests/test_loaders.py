"""Batches: which scenes they hold, in which order, and which data sets are refused."""

from itertools import chain

import pytest
import torch

from experiments.datasets import DataSplits
from experiments.loaders import SceneLoader, SceneManager
from tests.conftest import make_scenes

CPU = torch.device("cpu")


def scenes_with_numbers(number):
    """Scenes whose first pixel is their position, so that batches can be read."""
    scenes = make_scenes(number)
    scenes.images[:, 0, 0, 0] = torch.arange(number)
    return scenes


def loader(number=10, *, batch_size=4, shuffle=False):
    return SceneLoader(
        scenes_with_numbers(number), batch_size=batch_size, shuffle=shuffle, device=CPU
    )


def positions(batches):
    return [images[:, 0, 0, 0].tolist() for images, _ in batches]


def test_held_out_batches_cover_the_data_in_order():
    batches = list(loader())
    assert positions(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    for images, num_objects in batches:
        assert images.dtype == torch.uint8
        assert num_objects.dtype == torch.int64
        assert (num_objects == images[:, 0, 0, 0] % 3).all()


def test_a_batch_larger_than_the_held_out_data_holds_all_of_it():
    assert positions(loader(3, batch_size=100)) == [[0, 1, 2]]


def test_training_batches_keep_images_and_labels_together():
    torch.manual_seed(0)
    for images, num_objects in loader(9, batch_size=3, shuffle=True):
        assert (num_objects == images[:, 0, 0, 0] % 3).all()


def test_training_batches_cover_the_data_once():
    torch.manual_seed(0)
    batches = positions(loader(12, shuffle=True))
    assert sorted(chain(*batches)) == list(range(12))


def test_training_leaves_out_the_smaller_last_batch_another_one_each_epoch():
    torch.manual_seed(0)
    batches = loader(10, shuffle=True)
    left_out = set()
    for _ in range(20):
        epoch = positions(batches)
        assert [len(batch) for batch in epoch] == [4, 4]
        seen = set(chain(*epoch))
        assert len(seen) == 8
        left_out |= set(range(10)) - seen
    assert left_out == set(range(10))


@pytest.mark.parametrize(
    ("number", "batch_size", "shuffle", "length"),
    [(10, 4, True, 2), (8, 4, True, 2), (4, 4, True, 1), (10, 4, False, 3), (8, 4, False, 2)],
)
def test_length_is_the_number_of_batches(number, batch_size, shuffle, length):
    batches = loader(number, batch_size=batch_size, shuffle=shuffle)
    assert len(batches) == length == len(list(batches))


def test_order_differs_each_epoch_and_follows_the_seed():
    batches = loader(24, shuffle=True)
    torch.manual_seed(3)
    first, second = positions(batches), positions(batches)
    assert first != second
    assert first != [list(range(start, start + 4)) for start in range(0, 24, 4)]
    torch.manual_seed(3)
    assert [positions(batches), positions(batches)] == [first, second]
    torch.manual_seed(4)
    assert positions(batches) != first


def test_a_pass_can_be_entered_anywhere_in_a_given_order():
    batches = loader(10, shuffle=True)
    order = batches.draw_order()
    whole = positions(batches.batches(order))
    assert whole == [order[:4].tolist(), order[4:8].tolist()]
    for start in range(3):
        assert positions(batches.batches(order, start)) == whole[start:]
        into = batches.into(*batches.buffers(), order, start)
        assert [images[:, 0, 0, 0].tolist() for images, _ in into] == whole[start:]
    for _ in batches.batches(order, 1):
        assert torch.equal(batches.current, order[4:8])


def test_an_order_is_checked():
    batches = loader(10, shuffle=True)
    batches.check_order(batches.draw_order())
    for order in (torch.zeros(10).long(), torch.arange(9), torch.arange(1, 11)):
        with pytest.raises(ValueError, match="no order of 10 scenes"):
            batches.check_order(order)


def test_a_training_batch_larger_than_the_data_is_an_error():
    with pytest.raises(ValueError, match=r"batch size 11 is larger than the data set of 10 scenes"):
        loader(10, batch_size=11, shuffle=True)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_batch_of_nothing_is_an_error(shuffle):
    with pytest.raises(ValueError, match="batch size must be at least 1, got 0"):
        loader(batch_size=0, shuffle=shuffle)


def test_manager_hands_out_both_halves(make_args, tiny_data):
    manager = SceneManager(make_args(), CPU)
    assert tuple(manager.data_shape) == (1, 18, 16)
    assert manager.train.shuffle
    assert not manager.test.shuffle
    assert (manager.train.batch_size, manager.test.batch_size) == (8, 4)
    assert torch.equal(manager.train.images, tiny_data.train.images)
    assert torch.equal(manager.test.images, tiny_data.held_out.images)
    assert torch.equal(manager.test.num_objects, tiny_data.held_out.num_objects)


def test_labels_above_max_objects_are_refused(make_args):
    SceneManager(make_args(max_objects=2), CPU)
    with pytest.raises(ValueError, match=r"max_objects = 1.*Raise --max-objects to 2"):
        SceneManager(make_args(max_objects=1), CPU)


def test_labels_above_max_objects_in_the_held_out_half_are_refused(make_args, monkeypatch):
    splits = DataSplits(train=make_scenes(26, max_count=1), held_out=make_scenes(3), name="x")
    monkeypatch.setattr("experiments.loaders.load_splits", lambda cfg: splits)
    SceneManager(make_args(max_objects=2), CPU)
    with pytest.raises(ValueError, match=r"max_objects = 1"):
        SceneManager(make_args(max_objects=1), CPU)
