import pytest

from air.schedules import Constant, Cosine, Exponential, Linear, parse_schedule


@pytest.mark.parametrize(
    ("schedule", "values"),
    [
        (Constant(0.3), [0.3, 0.3, 0.3, 0.3]),
        (Linear(0.0, 1.0, 10), [0.0, 0.5, 1.0, 1.0]),
        (Exponential(1e-4, 1.0, 10), [1e-4, 1e-2, 1.0, 1.0]),
        (Cosine(1.0, 0.0, 10), [1.0, 0.5, 0.0, 0.0]),
    ],
)
def test_values(schedule, values):
    assert [schedule(step) for step in (0, 5, 10, 99)] == pytest.approx(values)


@pytest.mark.parametrize("kind", [Linear, Exponential, Cosine])
def test_ends_exactly_where_it_should(kind):
    assert kind(1e-9, 0.01, 4000)(4000) == 0.01


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.01", Constant(0.01)),
        ("linear:0:1:10", Linear(0.0, 1.0, 10)),
        ("exponential:1e-9:0.01:4000", Exponential(1e-9, 0.01, 4000)),
        ("cosine:1:0:10", Cosine(1.0, 0.0, 10)),
    ],
)
def test_parse(text, expected):
    assert parse_schedule(text) == expected


@pytest.mark.parametrize("text", ["", "often", "linear:0:1", "step:0:1:5", "linear:0:1:many"])
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="cannot read the schedule"):
        parse_schedule(text)


def test_bad_ramps_are_refused():
    with pytest.raises(ValueError, match="num_steps"):
        Linear(0.0, 1.0, 0)
    with pytest.raises(ValueError, match="positive ends"):
        Exponential(0.0, 1.0, 5)
