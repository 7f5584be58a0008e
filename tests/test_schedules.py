import pytest

from air.schedules import Chain, Constant, Cosine, Exponential, Linear, parse_schedule


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
        ("linear:1@0,1@4,3@9", Chain((Linear(1.0, 1.0, 4), Linear(1.0, 3.0, 5)))),
    ],
)
def test_parse(text, expected):
    assert parse_schedule(text) == expected


CHAINS = [
    "linear:1@0",
    "linear:1@5,2@9",
    "linear:1@0,2@9,3@9",
    "linear:1@0,2",
    "exponential:0@0,1@9",
]


@pytest.mark.parametrize(
    "text", ["", "often", "linear:0:1", "step:0:1:5", "linear:0:1:many", *CHAINS]
)
def test_parse_refuses(text):
    with pytest.raises(ValueError, match="cannot read the schedule"):
        parse_schedule(text)


def test_bad_ramps_are_refused():
    with pytest.raises(ValueError, match="num_steps"):
        Linear(0.0, 1.0, 0)
    with pytest.raises(ValueError, match="positive ends"):
        Exponential(0.0, 1.0, 5)


def test_a_chain_goes_through_its_points():
    chain = parse_schedule("exponential:1e-5@0,0.01@1500,0.01@3600,0.5@5400")
    assert [chain(step) for step in (0, 1500, 2000, 3600, 5400, 9999)] == pytest.approx(
        [1e-5, 0.01, 0.01, 0.01, 0.5, 0.5]
    )
    assert chain(4500) == pytest.approx((0.01 * 0.5) ** 0.5)
    with pytest.raises(ValueError, match="at least one ramp"):
        Chain(())
