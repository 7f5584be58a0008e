"""Numbers from people and files: beyond a float, not a number, absurd."""

import dataclasses

import pytest

import air
from air import AIRConfig
from air.images import Preparation
from air.schedules import parse_schedule
from experiments.cpu import check_threads
from experiments.datasets.scene_config import parse_scenes
from experiments.experiment import AIRExperiment
from tests.test_object_size import squares

HUGE = 10**400
NAN, INF = float("nan"), float("inf")


def short(value):
    return repr(value)[:9]


@pytest.mark.parametrize(
    "value", [HUGE, -HUGE, (HUGE, HUGE), (3.0, HUGE, 0), NAN, INF], ids=lambda v: repr(v)[:9]
)
@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(AIRConfig)])
def test_no_model_has_numbers_that_a_float_cannot_hold(name, value):
    with pytest.raises(ValueError, match=name):
        AIRConfig(**{name: value})


@pytest.mark.parametrize("value", [HUGE, (HUGE,), NAN], ids=lambda v: str(type(v)))
@pytest.mark.parametrize(
    "name", ["background", "contrast", "scale", "brightness", "gamma", "noise"]
)
def test_no_preparation_has_them(name, value):
    with pytest.raises(ValueError, match=name):
        Preparation(**{name: value})


@pytest.mark.parametrize(
    "text",
    ["nan", "inf", "1" + "0" * 400, "linear:nan:1:5", "cosine:0:inf:5", "linear:0@0,nan@5,1@9"],
)
def test_no_schedule_has_them(text):
    with pytest.raises(ValueError, match="finite"):
        parse_schedule(text)


@pytest.mark.parametrize("key", ["canvas", "max_objects", "size", "train", "colors", "noise"])
def test_no_scenes_have_them(key):
    with pytest.raises(ValueError, match=key):
        parse_scenes(f"scenes:{key}=1{'0' * 400}")


SETTINGS = {
    name: value
    for name, value in vars(AIRExperiment.default_args()).items()
    if type(value) in (int, float)
}


@pytest.mark.parametrize("name", SETTINGS)
def test_no_setting_has_them(name):
    values = (HUGE, -HUGE, 2**63) if type(SETTINGS[name]) is int else (NAN, INF, -INF)
    for value in values:
        with pytest.raises(ValueError, match=name):
            AIRExperiment._check_args(AIRExperiment.default_args(**{name: value}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("threads", 100_000), ("threads", 0), ("object_size", 1e-9), ("object_size", INF)),
        *(("seed", -1), ("seed", 2**32), ("batch_size", 0), ("max_objects", 1001)),
        *(("continue_prob", "linear:0.1@0,7@50,0.1@100"), ("max_grad_norm", NAN)),
    ],
)
def test_absurd_settings_are_refused_before_the_work(name, value):
    with pytest.raises(ValueError, match=name.replace("_", ".")):
        AIRExperiment._check_args(AIRExperiment.default_args(**{name: value}))


def test_a_thousand_threads_are_enough():
    check_threads(1024)
    check_threads(None)


@pytest.mark.parametrize("size", [1e-9, 0.5, INF, NAN, 1e6, HUGE])
def test_an_object_is_not_smaller_than_a_pixel_nor_larger_than_an_image(size):
    with pytest.raises(ValueError, match="object_size must lie between 1 and"):
        air.fit(1 - squares([6, 8], number=12, size=40), object_size=size, num_steps=1)
