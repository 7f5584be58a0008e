"""The estimators' benchmark: its arithmetic, what it keeps, and what it makes of it."""

import json
import signal
import sys

import pytest
import torch
from PIL import Image

from air.estimators import ESTIMATORS, Estimator, make_estimator
from air.types import Objective
from experiments.benchmarks.estimators import curves, report, variance
from experiments.benchmarks.estimators.__main__ import main, make_parser
from experiments.benchmarks.estimators.gradients import (
    GradientStatistics,
    bias,
    draw_gradients,
    group_sizes,
    measure_cost,
    train_baseline,
)
from experiments.benchmarks.estimators.variants import PAPER, VARIANTS, find_variants
from experiments.benchmarks.estimators.weights import loaded_weights, trained_weights
from experiments.benchmarks.record_files import read_finished, record_path, write_record
from experiments.experiment import AIRExperiment
from experiments.trainer import Trainer
from tests.small import CONFIG, small_images, small_model

GROUPS = ["inference.encoder", "inference.lstm", "inference.predictor", "generative.decoder"]


class Signed(Estimator):
    """A loss whose gradient is known: +2 and -1 in turn for each parameter of the decoder."""

    turn = 0

    def forward(self, model, images, prior=None, *, likelihood_sd=None):
        self.turn += 1
        factor = 2.0 if self.turn % 2 else -1.0
        loss = factor * sum(p.sum() for p in model.generative.decoder.parameters())
        return Objective(loss=loss, auxiliary_loss=torch.zeros_like(loss), output=None)


class Stretched(Estimator):
    """The exact gradient, half as long again."""

    def forward(self, model, images, prior=None, *, likelihood_sd=None):
        objective = make_estimator("enumerate", CONFIG)(model, images)
        loss = 1.5 * objective.loss
        return Objective(loss=loss, auxiliary_loss=0 * loss, output=objective.output)


# Gradients


def test_statistics_are_those_of_the_stacked_draws():
    torch.manual_seed(0)
    draws = torch.randn(50, 7, dtype=torch.float64) * 3 + 1e4  # where sums of squares would fail
    direction = torch.randn(7, dtype=torch.float64)
    statistics = GradientStatistics({"a": 3, "b": 4}, direction)
    for draw in draws:
        statistics.add(draw)
    variances = draws.var(dim=0)
    by_group = torch.stack([variances[:3].sum(), variances[3:].sum(), variances.sum()])
    torch.testing.assert_close(statistics.variance, by_group)
    torch.testing.assert_close(statistics.mean, draws.mean(dim=0))
    squares = draws.mean(dim=0).square()
    raw = torch.stack([squares[:3].sum(), squares[3:].sum(), squares.sum()])
    torch.testing.assert_close(statistics.mean_square, raw - by_group / 50)
    products = draws * direction
    along = torch.stack(
        [products[:, :3].sum(dim=1), products[:, 3:].sum(dim=1), products.sum(dim=1)], dim=1
    )
    mean, squared_error = statistics.along
    torch.testing.assert_close(mean, along.mean(dim=0))
    torch.testing.assert_close(squared_error, along.var(dim=0) / 50)


def test_one_draw_has_no_variance():
    statistics = GradientStatistics({"a": 1})
    statistics.add(torch.ones(1))
    with pytest.raises(ValueError, match="at least 2 draws"):
        _ = statistics.variance


def test_variance_of_a_known_gradient():
    model = small_model(inference="paper")
    sizes = group_sizes(model)
    statistics = GradientStatistics(sizes)
    draw_gradients(Signed(CONFIG), model, small_images(), statistics, draws=10)
    # Five of +2 and five of -1: mean 1/2, variance 10 * 1.5^2 / 9 = 2.5 each.
    number = sizes["generative.decoder"]
    assert dict(zip(statistics.names, statistics.variance.tolist(), strict=True)) == {
        **dict.fromkeys(GROUPS, 0.0),
        "generative.decoder": pytest.approx(2.5 * number),
        "total": pytest.approx(2.5 * number),
    }
    assert statistics.mean_square[-1].item() == 0  # 1/4 is no more than the noise of ten
    assert sum(sizes.values()) == sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def exact():
    """A model in float64, and exact gradients of it along a direction from others."""
    model, images = (
        small_model(inference="paper", dtype=torch.float64),
        small_images(3, dtype=torch.float64),
    )
    estimator = make_estimator("enumerate", CONFIG).double()
    torch.manual_seed(1)
    pilot = GradientStatistics(group_sizes(model))
    draw_gradients(estimator, model, images, pilot, 40)
    statistics = GradientStatistics(group_sizes(model), pilot.mean)
    draw_gradients(estimator, model, images, statistics, 120)
    return model, images, statistics


def measure(estimator, exact, draws=120):
    model, images, reference = exact
    torch.manual_seed(2)
    statistics = GradientStatistics(group_sizes(model), reference.direction)
    draw_gradients(estimator, model, images, statistics, draws)
    return statistics, bias(statistics, reference)


def test_bias_by_hand():
    direction = torch.tensor([2.0, 0.0], dtype=torch.float64)
    found, exact = (GradientStatistics({"a": 2}, direction) for _ in range(2))
    for statistics, draws in ((found, (1.0, 3.0)), (exact, (0.0, 2.0))):
        for draw in draws:
            statistics.add(torch.tensor([draw, 5.0]))
    # Means 2 and 1, each with a squared error of 2 / 2.
    expected = {"bias_distance": 0.5**0.5, "bias_along": 1.0, "bias_along_error": 2**0.5}
    assert bias(found, exact) == {name: pytest.approx(expected) for name in ("a", "total")}


def test_an_unbiased_estimator_has_no_bias(exact):
    estimator = make_estimator("rloo", CONFIG, 3, share_rollout=True).double()
    found, off = measure(estimator, exact)
    assert found.variance[-1] > exact[2].variance[-1]
    for name in [*GROUPS, "total"]:
        assert off[name]["bias_distance"] < 2
        assert abs(off[name]["bias_along"]) < 4 * off[name]["bias_along_error"]


def test_a_biased_estimator_is_found_out(exact):
    _, off = measure(Stretched(CONFIG), exact)
    total = off["total"]
    assert total["bias_along"] == pytest.approx(0.5, abs=4 * total["bias_along_error"])
    assert total["bias_along"] > 4 * total["bias_along_error"]
    assert total["bias_distance"] > 2


def test_a_gradient_that_is_not_finite_is_refused():
    model = small_model(inference="paper")
    with torch.no_grad():
        next(model.generative.parameters()).fill_(float("nan"))
    statistics, estimator = GradientStatistics(group_sizes(model)), make_estimator("rws", CONFIG)
    with pytest.raises(FloatingPointError, match="not finite"):
        draw_gradients(estimator, model, small_images(), statistics, 2)


def test_training_a_baseline_moves_nothing_else():
    model, images = small_model(inference="paper"), small_images(20)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    estimator = make_estimator("reinforce", CONFIG)
    own = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    assert train_baseline(estimator, model, images, steps=3, batch_size=5)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    moved = {name for name, tensor in estimator.state_dict().items() if not tensor.equal(own[name])}
    assert moved == set(own)
    assert not train_baseline(
        make_estimator("enumerate", CONFIG), model, images, steps=3, batch_size=5
    )


def test_a_trained_baseline_lowers_the_variance():
    model, images = small_model(inference="paper"), small_images(20)
    totals = []
    for steps in (0, 60):
        torch.manual_seed(0)
        estimator = make_estimator("reinforce", CONFIG)
        train_baseline(estimator, model, images, steps=steps, batch_size=10)
        statistics = GradientStatistics(group_sizes(model))
        draw_gradients(estimator, model, images[:5], statistics, 40)
        totals.append(statistics.variance[-1].item())
        assert estimator.training
    assert totals[1] < totals[0] / 3


def test_measuring_the_cost_leaves_no_trace():
    model, estimator = small_model(inference="paper"), make_estimator("reinforce", CONFIG)
    before = {name: tensor.clone() for name, tensor in estimator.state_dict().items()}
    exact = make_estimator("enumerate", CONFIG)
    seconds = measure_cost(estimator, exact, model, small_images(), rounds=2)
    assert min(seconds) > 0
    assert all(
        torch.equal(tensor.nan_to_num(), before[name].nan_to_num())
        for name, tensor in estimator.state_dict().items()
    )
    assert all(p.grad is None for p in model.parameters())


# Variants and records


def test_every_estimator_of_the_registry_is_compared():
    assert set(ESTIMATORS) <= set(VARIANTS)
    for name in ESTIMATORS:
        assert VARIANTS[name].estimator == name
        assert not VARIANTS[name].options


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS)
def test_the_table_of_variants_is_right(variant):
    estimator = variant.make(CONFIG)
    assert estimator.num_samples == variant.num_samples
    assert estimator.num_rollouts == variant.rollouts


def test_variants_are_found_by_name():
    assert [v.name for v in find_variants(None, ["rws", "nvil"])] == ["rws", "nvil"]
    assert [v.name for v in find_variants("rloo, rws,rloo", [])] == ["rloo", "rws"]
    assert len(find_variants("all", [])) == len(VARIANTS)
    with pytest.raises(ValueError, match=r"unknown estimator\(s\): 'rlo'. Expected some of: enum"):
        find_variants("rlo,rws", [])


def test_a_record_of_other_settings_is_refused(tmp_path):
    path = record_path(tmp_path / "new", "set", "enumerate")
    assert read_finished(path, {"max_steps": 4}) is None
    record = {"settings": {"max_steps": 4}, "curve": [{"step": 1, "elbo": 2.5}]}
    write_record(path, record)
    assert read_finished(path, {"max_steps": 4}) == record
    assert [p.name for p in path.parent.iterdir()] == ["set_enumerate.json"]
    with pytest.raises(ValueError, match="made with max_steps = 4 instead of 5"):
        read_finished(path, {"max_steps": 5})
    path.write_text("{")
    with pytest.raises(ValueError, match="cannot read the record"):
        read_finished(path, {"max_steps": 4})


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path / "a.json", {"elbo": float("nan")})
    with pytest.raises(ValueError, match="cannot be part"):
        record_path(tmp_path, "../up")
    assert not list(tmp_path.iterdir())


# The commands, on tiny data


@pytest.fixture
def arguments(tiny_data, tmp_path):
    """Makes the arguments of a part, on ``tiny_data`` and with records in ``tmp_path``."""

    def make(part, *words):
        words = [part, "--dataset", "multi-mnist", "--records", str(tmp_path / "records"), *words]
        if part != "report":
            words += ["--batch-size", "8", "--nocuda"]
        return words

    return make


CURVES = ("--seeds", "0-1", "--max-steps", "10", "--test-every", "4")


def records(tmp_path, kind):
    found = (tmp_path / "records" / kind).glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in sorted(found)}


def width(path):
    with Image.open(path) as picture:
        return picture.width


def test_curves_end_to_end_and_again(arguments, tmp_path, monkeypatch, capsys):
    words = arguments("curves", *CURVES, "--estimators", "enumerate,reinforce-mean")
    assert main(words) == 0
    found = records(tmp_path, "curves")
    assert set(found) == {
        f"multi-mnist_{name}_seed{seed}"
        for name in ("enumerate", "reinforce-mean")
        for seed in "01"
    }
    one = found["multi-mnist_reinforce-mean_seed1"]
    assert one["status"] == "finished"
    assert one["held_out_scenes"] == 10
    assert [point["step"] for point in one["curve"]] == [4, 8, 10]
    assert one["settings"]["options"] == {"baseline": "mean"}
    for clock in ("seconds", "cpu_seconds"):
        times = [point[clock] for point in one["curve"]]
        assert times == sorted(times)
        assert times[0] > 0
    # The command that it names parses, and makes this run.
    args = make_parser().parse_args(one["command"].split()[3:])
    assert (args.estimators, args.seeds, args.max_steps) == ("reinforce-mean", "1", 10)

    # Killed and started again: only what has no record is made.
    (tmp_path / "records" / "curves" / "multi-mnist_enumerate_seed1.json").unlink()
    made = []
    train = curves.train
    monkeypatch.setattr(curves, "train", lambda job, args: made.append(job) or train(job, args))
    capsys.readouterr()
    assert main(words) == 0
    assert [job.title for job in made] == ["enumerate seed 1"]
    assert "3 of 4 runs are there already" in capsys.readouterr().out
    again = records(tmp_path, "curves")["multi-mnist_enumerate_seed1"]["curve"]
    before = found["multi-mnist_enumerate_seed1"]["curve"]
    assert [point["elbo"] for point in again] == [point["elbo"] for point in before]
    # Another budget does not pass for this one.
    assert main(arguments("curves", "--max-steps", "11", "--test-every", "4")) == 2
    assert "max_steps = 10 instead of 11" in capsys.readouterr().err


def test_a_curve_is_that_of_the_trainer(arguments, tmp_path, make_args):
    """The variant of a registry's name trains exactly as ``main.py train`` does."""
    assert main(arguments("curves", *CURVES, "--estimators", "enumerate", "--seeds", "1")) == 0
    (record,) = records(tmp_path, "curves").values()
    changes = {"max_steps": 10, "test_log_every": 4, "checkpoint_every": 4, "train_log_every": 4}
    plain = {"seed": 1, "z_what_size": 50, "test_batch_size": 500, "dry_run": True, **PAPER}
    metrics = Trainer(AIRExperiment(make_args(**changes, **plain))).run()
    assert record["curve"][-1]["elbo"] == metrics["elbo"]


def test_a_variants_options_reach_its_estimator(make_args):
    args = make_args(estimator="reinforce", dry_run=True)
    experiment = curves.CurveExperiment(args, VARIANTS["reinforce-mean"])
    Trainer(experiment)
    estimator = experiment.model.estimator
    assert (estimator.baseline, estimator.centred, estimator.scaled) == (None, True, False)


def breaks_at(monkeypatch, step, *, poison=True, error=None):
    """Have the model broken, an error raised, or both, at a step of every run."""
    forward_pass = AIRExperiment.forward_pass

    def broken(self, x, y=None):
        if self.model.global_step == step:
            if poison:
                with torch.no_grad():
                    next(self.model.air.generative.parameters()).fill_(float("nan"))
            if error is not None:
                raise error
        return forward_pass(self, x, y)

    monkeypatch.setattr(AIRExperiment, "forward_pass", broken)


def test_a_run_that_breaks_down_is_recorded_and_counted(arguments, tmp_path, monkeypatch, capsys):
    assert main(arguments("curves", *CURVES, "--estimators", "enumerate", "--seeds", "0")) == 0
    breaks_at(monkeypatch, 6)
    assert main(arguments("curves", *CURVES, "--estimators", "enumerate")) == 0
    record = records(tmp_path, "curves")["multi-mnist_enumerate_seed1"]
    assert record["status"] == "failed"
    assert "not finite" in record["reason"]
    assert [point["step"] for point in record["curve"]] == [4]
    capsys.readouterr()
    assert main(arguments("report", "--pictures", str(tmp_path / "pictures"))) == 0
    row = capsys.readouterr().out.splitlines()[4]
    assert "0 of 2 (1 broke down)" in row
    assert "| 0.00 % |" in row
    assert width(tmp_path / "pictures" / "estimators_curves.png") > 300


def test_a_broken_model_that_trips_over_a_check_is_a_result(arguments, tmp_path, monkeypatch):
    breaks_at(monkeypatch, 2, error=ValueError("loc must be real"))
    assert main(arguments("curves", *CURVES, "--estimators", "rws", "--seeds", "0")) == 0
    (record,) = records(tmp_path, "curves").values()
    assert record["reason"] == "parameters not finite at step 2: loc must be real"
    assert (record["status"], record["curve"]) == ("failed", [])
    assert main(arguments("report", "--pictures", str(tmp_path))) == 0


def test_another_error_is_no_result(arguments, tmp_path, monkeypatch):
    breaks_at(monkeypatch, 2, poison=False, error=RuntimeError("out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        main(arguments("curves", *CURVES, "--estimators", "enumerate"))
    assert not records(tmp_path, "curves")


def test_an_interrupted_run_is_no_result(arguments, tmp_path, monkeypatch, capsys):
    forward_pass = AIRExperiment.forward_pass

    def interrupted(self, x, y=None):
        if self.model.global_step == 5:
            signal.raise_signal(signal.SIGTERM)
        return forward_pass(self, x, y)

    monkeypatch.setattr(AIRExperiment, "forward_pass", interrupted)
    assert main(arguments("curves", *CURVES, "--estimators", "enumerate")) == 130
    assert not records(tmp_path, "curves")


def test_side_by_side(arguments, tmp_path, monkeypatch, capsys):
    """One process makes its record, the other dies: the rest goes on, and the loss is told."""

    def child(job, args):
        record = {"settings": job.settings, "status": "failed", "reason": "told to"}
        script = "import sys; sys.exit('out of luck')"
        if job.seed == 0:
            script = (
                "import json; from experiments.benchmarks.record_files import *; "
                f"from pathlib import Path; write_record(Path({str(job.path)!r}), "
                f"json.loads({json.dumps(record)!r}))"
            )
        return [sys.executable, "-c", script]

    monkeypatch.setattr(curves, "_child", child)
    words = arguments("curves", *CURVES, "--estimators", "enumerate", "--jobs", "2")
    assert main(words) == 1
    out, err = capsys.readouterr()
    assert "enumerate seed 0: broke down (told to)" in out
    assert "enumerate seed 1: stopped (1)" in out
    assert "out of luck" in err
    assert "1 run(s) stopped without a record: enumerate seed 1" in err


def test_a_child_is_told_everything(arguments, tmp_path):
    words = arguments("curves", *CURVES, "--estimators", "rloo", "--data-root", str(tmp_path))
    args = make_parser().parse_args(words)
    variant = VARIANTS["rloo"]
    job = curves.Job(variant, 7, tmp_path / "x.json", {})
    told = make_parser().parse_args(curves._child(job, args)[3:])
    assert vars(told) == vars(args) | {"seeds": "7", "data_root": str(tmp_path)}


VARIANCE = ("--half-steps", "1", "--trained-steps", "2", "--draws", "3", "--cost-rounds", "1")


def test_variance_end_to_end_and_again(arguments, tmp_path, monkeypatch, capsys):
    words = arguments(
        *("variance", *VARIANCE, "--baseline-steps", "2", "--weights", str(tmp_path / "weights")),
        *("--estimators", "enumerate,reinforce,vimco"),
    )
    assert main(words) == 0
    found = records(tmp_path, "variance")
    assert len(found) == 9
    record = found["multi-mnist_half-trained_reinforce"]
    assert record["trained_own_parameters_for"] == 2
    assert record["settings"]["weights"] == "enumerate, seed 0, step 1 of 2"
    assert list(record["groups"]) == [*GROUPS, "total"]
    parts = [record["groups"][group]["variance"] for group in GROUPS]
    assert record["groups"]["total"]["variance"] == pytest.approx(sum(parts))
    assert "bias_distance" in record["groups"]["total"]
    # Neither the exact one, nor what is no estimate of the ELBO's gradient, is compared with it.
    for name in ("enumerate", "vimco"):
        other = found[f"multi-mnist_trained_{name}"]
        assert "bias_distance" not in other["groups"]["total"]
        assert other["trained_own_parameters_for"] == 0

    (tmp_path / "records" / "variance" / "multi-mnist_fresh_reinforce.json").unlink()
    written = []
    monkeypatch.setattr(variance, "write_record", lambda path, record: written.append(record))
    monkeypatch.setattr(Trainer, "run", lambda self: pytest.fail("the weights are there"))
    assert main(words) == 0
    (again,) = written
    assert again["groups"] == found["multi-mnist_fresh_reinforce"]["groups"]
    capsys.readouterr()
    assert main(arguments("report", "--pictures", str(tmp_path / "pictures"))) == 0
    assert "| `vimco` | 5 |" in capsys.readouterr().out
    assert width(tmp_path / "pictures" / "estimators_variance.png") > 500


def test_weights_are_those_on_a_runs_way(make_args, tmp_path):
    args = make_args(max_steps=1)
    steps = {"fresh": 0, "half-trained": 2, "trained": 4}
    found = trained_weights(args, steps, tmp_path / "weights")
    tensors = [next(weights.air.parameters()) for weights in found]
    assert not tensors[0].equal(tensors[1])
    assert not tensors[1].equal(tensors[2])
    torch.manual_seed(args.seed)
    trainer = Trainer(AIRExperiment(make_args(max_steps=4, test_log_every=4, checkpoint_every=4)))
    fresh = next(trainer.experiment.model.air.parameters()).clone()
    trainer.run()
    assert tensors[0].equal(fresh)
    assert tensors[2].equal(next(trainer.experiment.model.air.parameters()))
    # The same, loaded as a run.
    output = make_args().output
    (loaded,) = loaded_weights(["late=run@4"], output)
    assert next(loaded.air.parameters()).equal(tensors[2])
    assert (loaded.label, loaded.source) == ("late", "enumerate, seed 0, step 4")
    with pytest.raises(ValueError, match="LABEL=RUN"):
        loaded_weights(["run"], output)
    with pytest.raises(ValueError, match="label of its own"):
        loaded_weights(["late=run", "late=run@4"], output)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["curves", "--seeds", "1-"], "--seeds takes numbers and ranges"),
        (["curves", "--seeds", "3-1"], "holds no seed"),
        (["curves", "--jobs", "0"], "jobs must be at least 1"),
        (["curves", "--estimators", "best"], "unknown estimator"),
        (["variance", "--draws", "1"], "draws must be at least 2"),
        (["variance", "--trained-steps", "2"], "trained_steps must be at least 300"),
        (["report"], "holds no record of multi-mnist"),
    ],
)
def test_what_the_caller_can_mend(words, message, arguments, capsys):
    assert main(arguments(*words)) == 2
    assert message in capsys.readouterr().err


# The report


def run_record(name, seed, accuracy, *, elbo=600.0, seconds=60.0, status="finished", steps=100):
    point = {"step": steps, "count_accuracy_mode": accuracy, "count_accuracy": accuracy}
    settings = {"max_steps": 100, "batch_size": 64, "device": "cpu", "threads": 1}
    return {
        "estimator": name,
        "seed": seed,
        "dataset": "a-set",
        "held_out_scenes": 10_000,
        "status": status,
        "settings": settings,
        "curve": [{**point, "elbo": elbo, "seconds": 7 * seconds, "cpu_seconds": seconds}],
    }


def test_numbers_of_the_curves_table():
    runs = [
        run_record("reinforce", 1, 0.96, elbo=610.0, seconds=90.0),
        run_record("reinforce", 0, 0.98, elbo=620.0, seconds=120.0),
        run_record("reinforce", 2, 0.99, status="failed", steps=50, seconds=50.0),
        run_record("enumerate", 0, 0.985, elbo=630.0, seconds=50.0),
    ]
    exact, reinforce = report.curve_table(report.group_curves(runs)).splitlines()[2:]
    assert exact == (
        "| `enumerate` | sum over n | the ELBO | 1 | 1 of 1 | 98.50 % | 98.50 % | 630.0 | 1.00 |"
    )
    # The one that broke down has no count right: (98 + 96 + 0) / 3.
    assert reinforce.endswith(
        "| 1 | 1 of 3 (1 broke down) | 64.67 ± 56.01 % | 0.00 % | 615.0 ± 7.1 | 2.00 |"
    )


def test_runs_of_other_budgets_are_not_compared():
    other = run_record("rloo", 0, 0.9)
    other["settings"]["max_steps"] = 200
    with pytest.raises(ValueError, match="not comparable"):
        report.group_curves([run_record("rloo", 1, 0.9), other])
    with pytest.raises(ValueError, match="unknown estimator"):
        report.group_curves([run_record("best", 1, 0.9)])


def gradient_record(name, label, factor, **bias):
    groups = {
        group: {"variance": factor * 10.0**-i, "signal_to_noise": 0.5 * factor, **bias}
        for i, group in enumerate(GROUPS)
    }
    groups["total"] = {"variance": factor * 1.111, "signal_to_noise": 0.1, **bias}
    return {
        "estimator": name,
        "dataset": "a-set",
        "weights": label,
        "settings": {"draws": 9, "baseline_steps": 5, "batch_size": 64, "weights": f"w {label}"},
        "groups": groups,
        "seconds": 0.05,
        "enumerate_seconds": 0.02,
    }


def test_numbers_of_the_gradient_tables():
    off = {"bias_distance": 1.25, "bias_along": -0.031, "bias_along_error": 0.01}
    gradients = report.group_gradients(
        [
            gradient_record("rloo", "trained", 2000.0, **off),
            gradient_record("rloo", "fresh", 20000.0),
            gradient_record("enumerate", "fresh", 3.0),
        ]
    )
    head, _, exact, rloo = report.gradient_table(gradients).splitlines()
    assert "variance, fresh / trained" in head
    assert exact == "| `enumerate` | 1 | 3.3 / – | 0.1 / – | – / – | – | 2.50 |"
    assert rloo == "| `rloo` | 5 | 2.2e4 / 2200 | 0.1 / 0.1 | – / 1.2 | -3.1 ± 1.0 % | 2.50 |"
    assert report.group_table(gradients).splitlines()[3] == (
        "| `rloo` | 2.0e4 / 2000 | 2000 / 200 | 200 / 20 | 20 / 2 |"
    )
    strange = gradient_record("nvil", "fresh", 1.0)
    strange["settings"]["weights"] = "others"
    with pytest.raises(ValueError, match="not comparable"):
        report.group_gradients([strange, gradient_record("rloo", "fresh", 1.0)])


def test_the_report_is_written_between_its_markers(tmp_path):
    write_record(tmp_path / "curves" / "a.json", run_record("rws", 0, 0.9))
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- estimators -->\nold\n<!-- end of estimators -->\nb\n")
    words = ["report", "--dataset", "a-set", "--records", str(tmp_path), "--no-pictures"]
    assert main([*words, "--write", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("a\n<!-- estimators -->\n`a-set`, 100 steps of batch 64")
    assert "| `rws` |" in text
    assert "old" not in text
    assert text.endswith("\n<!-- end of estimators -->\nb\n")
