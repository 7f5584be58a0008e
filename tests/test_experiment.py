"""The experiment: its settings, its objective, its schedules, and stock boilr running it."""

import argparse
import math
import sys
import types

import boilr
import pytest
import torch
from PIL import Image

from air import AIRConfig
from air.recipe import recipe_for
from air.schedules import parse_schedule
from experiments.boilr_model import checkpoint_steps
from experiments.experiment import AIRExperiment, make_config
from experiments.objective import METRICS

CPU = torch.device("cpu")


@pytest.fixture
def make_experiment(make_args):
    """Makes an experiment that is ready to train."""

    def make(**changes):
        torch.manual_seed(0)
        experiment = AIRExperiment(make_args(**changes))
        experiment.setup(CPU)
        return experiment

    return make


def first_batch(experiment):
    loader = experiment.dataloaders.train
    return loader.images[:8], loader.num_objects[:8]


def train_one_step(experiment):
    """As boilr does."""
    experiment.optimizer.zero_grad()
    results = experiment.forward_pass(*first_batch(experiment))
    results["loss"].backward()
    experiment.post_backward_callback()
    experiment.optimizer.step()
    experiment.model.increment_global_step()
    return results


# Settings


def test_default_settings_are_those_of_an_empty_command_line():
    parser = argparse.ArgumentParser()
    AIRExperiment.add_arguments(parser)
    args = AIRExperiment.default_args()
    assert args == parser.parse_args([])
    assert (args.dataset, args.estimator, args.max_steps) == ("multi-mnist", "enumerate", 3_000)
    assert AIRExperiment(args).args.test_imgs_every == args.test_log_every


def test_settings_can_be_changed_each_time_anew():
    args = AIRExperiment.default_args(lr=0.5, dataset="multi-mnist-pyro")
    assert (args.lr, args.dataset) == (0.5, "multi-mnist-pyro")
    assert AIRExperiment.default_args().lr is None


def test_unknown_settings_are_refused_by_name():
    with pytest.raises(ValueError, match=r"unknown setting\(s\): learn_rate, steps\. .*max_steps"):
        AIRExperiment.default_args(steps=3, lr=0.1, learn_rate=2)


def test_description_names_what_is_run():
    args = AIRExperiment.default_args(estimator="reinforce", seed=7)
    assert AIRExperiment(args).run_description == "multi-mnist_reinforce_seed7"
    args.additional_descr = "wide"
    assert AIRExperiment(args).run_description == "multi-mnist_reinforce_seed7_wide"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resume": "run", "dry_run": True}, r"--dry-run saves nothing"),
        ({"on_nan": "skip"}, r"--on-nan must be stop, or skip:N"),
        ({"num_samples": 10**9}, r"num_samples must be at most 10000"),
        ({"dataset": "cifar"}, r"unknown data set 'cifar'\. Expected one of: multi-mnist, "),
        ({"estimator": "vimc"}, r"unknown estimator 'vimc'\. Expected one of: .*enumerate, "),
        ({"max_steps": 0}, r"max_steps must be at least 1, got 0"),
        ({"max_epochs": 0}, r"max_epochs must be at least 1, got 0"),
        ({"train_log_every": -1}, r"train_log_every must be at least 1, got -1"),
        ({"test_log_every": -2}, r"test_log_every must be at least 1, got -2"),
        ({"lr": 0.0}, r"lr must be above 0, got 0\.0"),
        ({"lr": math.nan}, r"lr must be a finite number"),
        ({"baseline_lr": -1.0}, r"baseline_lr must be above 0, got -1\.0"),
        ({"checkpoint_every": 0}, r"checkpoint_every must be at least 1, got 0"),
        ({"checkpoint_every": 3}, r"'checkpoint_every' must be a multiple .* are 3 and 2"),
        ({"train_log_every": 3}, r"'test_log_every' must be a multiple of 'train_log_every'"),
        ({"test_imgs_every": 3}, r"'test_imgs_every' must be a multiple of 'test_log_every'"),
        ({"loglikelihood_every": 3}, r"'loglikelihood_every' must be a multiple"),
        ({"continue_prob": "0"}, r"--continue-prob must stay between 0 and 1.* got 0\.0 at step 0"),
        ({"continue_prob": "1"}, r"--continue-prob must stay between 0 and 1"),
        ({"continue_prob": "nan"}, "it must be a finite number"),
        ({"continue_prob": "linear:0.1:1:4"}, r"got 1\.0 at step 4"),
        ({"continue_prob": "linear:0.1:0.5"}, r"cannot read the schedule 'linear:0\.1:0\.5'"),
        ({"continue_prob": "often"}, r"cannot read the schedule 'often'"),
    ],
    ids=str,
)
def test_bad_settings_are_refused(changes, message, make_args):
    with pytest.raises(ValueError, match=message):
        AIRExperiment(make_args(**changes))


@pytest.mark.parametrize(
    "name",
    [
        "train_log_every",
        "test_log_every",
        "max_grad_norm",
        "test_imgs_every",
        "loglikelihood_every",
        "threads",
    ],
)
def test_zero_is_refused_with_a_message(name, make_args):
    with pytest.raises(ValueError, match=name):
        AIRExperiment(make_args(**{name: 0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_objects": 1}, "max.objects"),
        ({"max_objects": 0}, "max_objects must be at least 1|max.objects"),
        ({"overlap": "max"}, r"unknown overlap 'max'"),
        ({"likelihood": "gaussian"}, r"unknown likelihood 'gaussian'"),
        ({"likelihood_sd": 0.0}, r"--likelihood-sd must stay above 0, got 0\.0 at step 0"),
        ({"likelihood_sd": "linear:0.3:0:4"}, r"--likelihood-sd must stay above 0, got 0\.0 at"),
        ({"likelihood_sd": "linear:0.3:0.2:4", "likelihood": "bernoulli"}, "must be a number"),
        ({"z_what_size": 0}, "z_what_size must be at least 1"),
        ({"encoder_hidden": "4;8"}, "cannot read the sizes '4;8'"),
        ({"encoder_hidden": "12,many"}, "cannot read the sizes '12,many'"),
        ({"decoder_hidden": "0"}, "decoder_hidden must hold sizes of at least 1"),
        ({"batch_size": 1000}, "Lower --batch-size"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"estimator": "rloo"}, r"rloo needs num_samples >= 2.*--num-samples"),
        ({"num_samples": 0}, "num_samples must be at least 1"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_data_or_model_are_refused(changes, message, make_experiment):
    with pytest.raises(ValueError, match=message):
        make_experiment(**changes)


def test_in_a_notebook_the_kernels_command_line_is_not_read(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["ipykernel_launcher.py", "-f", "/kernel.json", "--lr", "9"])
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))
    expected = AIRExperiment(AIRExperiment.default_args()).args
    assert AIRExperiment().args == expected


def test_elsewhere_the_command_line_is_read(monkeypatch):
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(sys, "argv", ["main.py", "--lr", "0.5", "--estimator", "reinforce"])
    args = AIRExperiment().args
    assert (args.lr, args.estimator) == (0.5, "reinforce")


# The objective


def test_loss_is_minus_the_elbo_of_the_model(make_experiment):
    experiment = make_experiment(continue_prob="0.2", num_samples=2)
    images, num_objects = first_batch(experiment)
    air = experiment.model.air
    torch.manual_seed(5)
    results = experiment.forward_pass(images, num_objects)
    torch.manual_seed(5)
    output = air(images.float() / 255, num_samples=2)
    torch.testing.assert_close(results["loss"], -output.elbo.mean())
    torch.testing.assert_close(results["bound"], output.elbo.mean())
    parts = results["log_likelihood"] - sum(results[name] for name in METRICS if "kl" in name)
    torch.testing.assert_close(results["elbo"], parts)
    rows = torch.arange(len(images))
    expected = output.count_probs[:, rows, num_objects].mean()
    torch.testing.assert_close(results["count_accuracy"], expected)
    assert "auxiliary_loss" not in results


def test_loss_with_a_baseline_is_minus_the_bound_plus_the_baselines_own(make_experiment):
    experiment = make_experiment(estimator="reinforce", continue_prob="0.01")
    images, num_objects = first_batch(experiment)
    train_one_step(experiment)
    model = experiment.model.eval()  # the running statistics stay
    torch.manual_seed(5)
    results = experiment.forward_pass(images, num_objects)
    torch.manual_seed(5)
    objective = model.estimator(model.air, images.float() / 255)
    assert results["auxiliary_loss"] > 0
    torch.testing.assert_close(results["bound"], -objective.loss)
    torch.testing.assert_close(results["auxiliary_loss"], objective.auxiliary_loss)
    torch.testing.assert_close(results["loss"], results["auxiliary_loss"] - results["bound"])


@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
def test_only_the_loss_has_a_gradient_and_it_reaches_every_parameter(estimator, make_experiment):
    experiment = make_experiment(estimator=estimator)
    results = experiment.forward_pass(*first_batch(experiment))
    assert [name for name, value in results.items() if value.requires_grad] == ["loss"]
    results["loss"].backward()
    for name, parameter in experiment.model.named_parameters():
        assert parameter.grad is not None, name
    trained = sum(len(group["params"]) for group in experiment.optimizer.param_groups)
    assert trained == len(list(experiment.model.parameters()))


def test_float_images_and_bytes_are_the_same_and_labels_can_be_missing(make_experiment):
    experiment = make_experiment()
    images, _ = first_batch(experiment)
    torch.manual_seed(5)
    results = experiment.forward_pass(images)
    torch.manual_seed(5)
    same = experiment.forward_pass(images.float() / 255)
    assert torch.equal(results["loss"], same["loss"])
    assert "count_accuracy" not in results


def test_metrics_are_plain_floats(make_experiment):
    experiment = make_experiment(estimator="reinforce")
    results = experiment.forward_pass(*first_batch(experiment))
    metrics = experiment.get_metrics_dict(
        {**results, "vector": torch.zeros(3), "number": 2, "one": torch.ones(1)}
    )
    assert set(metrics) == {*results, "number", "one"}
    assert {type(value) for value in metrics.values()} == {float}
    assert metrics["elbo"] == results["elbo"].item()
    assert set(METRICS) | {"loss", "bound", "count_accuracy", "auxiliary_loss"} <= set(metrics)
    held_out = experiment.test_procedure()
    assert set(held_out) == {*METRICS, "count_accuracy", "count_accuracy_mode"}
    assert {type(value) for value in held_out.values()} == {float}
    for line in (
        experiment.train_log_str(metrics, 3, 1),
        experiment.test_log_str(held_out, 3, 1),
    ):
        assert "step 3" in line
        assert "elbo" in line


# Schedules


@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
def test_learning_rates_follow_a_cosine_to_zero(estimator, make_experiment):
    experiment = make_experiment(estimator=estimator, lr=0.01, baseline_lr=0.002, max_steps=4)
    used = []
    for _ in range(4):
        train_one_step(experiment)
        used.append([group["lr"] for group in experiment.optimizer.param_groups])
    starts = [0.01] if estimator == "enumerate" else [0.01, 0.002]
    for step, rates in enumerate(used):
        weight = (1 + math.cos(math.pi * step / 4)) / 2
        assert rates == pytest.approx([start * weight for start in starts])
    assert used[0] == starts


def test_each_parameter_group_holds_its_own_parameters(make_experiment):
    experiment = make_experiment(estimator="reinforce")
    model, groups = experiment.model, experiment.optimizer.param_groups
    for own, group in zip((model.air, model.estimator), groups, strict=True):
        assert {id(p) for p in own.parameters()} == {id(p) for p in group["params"]}


def test_continue_prob_schedule_reaches_the_prior_step_by_step(make_experiment):
    experiment = make_experiment(continue_prob="linear:0.1:0.5:4", max_steps=4)
    seen = []
    experiment.model.estimator.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[2].num_steps.continue_prob.item())
    )
    for _ in range(4):
        train_one_step(experiment)
    assert seen == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert experiment.model.air.config.continue_prob == 0.5
    assert experiment.model.air.prior().num_steps.continue_prob.item() == pytest.approx(0.5)


def test_one_object_an_image_until_the_step_that_is_asked_for(make_experiment):
    experiment = make_experiment(continue_prob="0.5", alone_until=2, max_steps=4)
    found = []
    experiment.model.estimator.register_forward_hook(
        lambda module, arguments, result: found.append(result.output.count_probs[..., 2:].max())
    )
    for _ in range(4):
        train_one_step(experiment)
    assert max(found[:2]) < 1e-12
    assert min(found[2:]) > 1e-3


def test_alone_until_is_the_recipes_by_default(make_args):
    def alone_until(**changes):
        return AIRExperiment._check_args(make_args(max_steps=50, **changes)).alone_until

    assert alone_until(alone_until=None) == 5
    assert alone_until(alone_until=None, inference="paper") == 0
    assert alone_until(alone_until=7) == 7
    with pytest.raises(ValueError, match="alone_until"):
        alone_until(alone_until=-1)


def test_likelihood_sd_schedule_reaches_the_likelihood_step_by_step(make_experiment):
    experiment = make_experiment(likelihood_sd="linear:0.5@0,0.5@2,0.1@4", max_steps=4)
    seen = []
    experiment.model.air.generative.likelihood.register_forward_pre_hook(
        lambda module, arguments: seen.append(arguments[2])
    )
    for _ in range(4):
        train_one_step(experiment)
    assert seen == pytest.approx([0.5, 0.5, 0.5, 0.3])
    assert experiment.model.air.config.likelihood_sd == 0.1


def test_continue_prob_is_learned_from_the_step_on_that_is_asked_for(make_experiment):
    experiment = make_experiment(
        continue_prob="linear:0.1:0.5:4", max_steps=8, lr=0.01, learn_continue_prob_from=2
    )
    prior = experiment.model.air.generative.prior
    used, own = [], []
    for _ in range(4):
        own.append(prior.continue_prob.item())
        used.append(train_one_step(experiment)["continue_prob"].item())
    assert used[:2] == pytest.approx([0.1, 0.2])  # the schedule's
    assert own[:3] == pytest.approx([0.5] * 3)  # what it ends with, untouched
    assert used[2:] == pytest.approx(own[2:])
    assert own[3] != pytest.approx(0.5)
    assert experiment.model.air.prior().num_steps.continue_prob.item() == prior.continue_prob.item()


def test_a_learned_continue_prob_has_a_learning_rate_of_its_own(make_experiment):
    experiment = make_experiment(learn_continue_prob_from=0, lr=0.01, max_steps=3_000)
    rest, prior = experiment.optimizer.param_groups
    (parameter,) = prior["params"]
    assert parameter is experiment.model.air.generative.prior.continue_logit
    assert all(p is not parameter for p in rest["params"])
    experiment.model._global_step = 2_999
    experiment.set_schedules()
    assert prior["lr"] == pytest.approx(0.1)
    assert rest["lr"] < 1e-4
    assert "continue_prob" not in make_experiment().forward_pass(*first_batch(experiment))


@pytest.mark.parametrize(
    ("schedule", "end"), [("0.2", 0.2), ("linear:0.1:0.5:8", 0.3), ("exponential:1e-4:0.1:2", 0.1)]
)
def test_the_model_keeps_the_continue_prob_of_the_last_step(schedule, end, make_experiment):
    experiment = make_experiment(continue_prob=schedule, max_steps=4)
    assert experiment.model.air.config.continue_prob == pytest.approx(end)


def test_settings_reach_the_model(make_experiment):
    experiment = make_experiment(
        max_objects=4,
        z_what_size=6,
        likelihood="bernoulli",
        likelihood_sd=0.2,
        num_samples=3,
        inference="paper",
        num_candidates=7,
        encoder_hidden="7,8",
        decoder_hidden="",
        overlap="union",
    )
    config = experiment.model.air.config
    assert config.image_shape == (1, 18, 16)
    assert (config.max_objects, config.z_what_size) == (4, 6)
    assert (config.inference, config.num_candidates) == ("paper", 7)
    assert (config.encoder_hidden, config.decoder_hidden) == ((7, 8), ())
    assert not config.learn_continue_prob
    assert config.overlap == "union"
    assert (config.likelihood, config.likelihood_sd) == ("bernoulli", 0.2)
    assert experiment.model.estimator.num_samples == 3


@pytest.mark.parametrize(
    ("inference", "lr", "continue_prob"),
    [
        ("residual", 2e-3, "exponential:0.5@0,0.5@100,0.0001@300,0.0001@600,0.01@850"),
        ("paper", 1e-3, "exponential:1e-05@0,0.01@500"),
    ],
)
def test_what_no_flag_says_is_the_recipes_and_kept_as_plain_values(
    inference, lr, continue_prob, make_experiment
):
    args = make_experiment(inference=inference, max_steps=1000).args
    assert (args.lr, args.continue_prob, args.likelihood_sd) == (lr, continue_prob, "0.3")
    recipe = recipe_for(AIRConfig(inference=inference), 1000)
    schedule = parse_schedule(args.continue_prob)
    assert all(math.isclose(schedule(t), recipe.continue_prob(t)) for t in range(0, 1001, 50))
    said = {"lr": 0.5, "continue_prob": "0.2", "likelihood_sd": "0.4"}
    args = make_experiment(inference=inference, **said).args
    assert {name: getattr(args, name) for name in said} == said


def test_an_error_in_all_channels_counts_once(make_args):
    assert make_config(make_args(continue_prob="0.1"), (3, 20, 20), 1).likelihood_sd == 0.52


# Held-out metrics


def test_importance_weighted_bound_is_above_the_elbo(make_experiment):
    experiment = make_experiment(max_steps=30, lr=3e-3)
    for _ in range(30):
        train_one_step(experiment)
    experiment.model.eval()
    torch.manual_seed(0)
    metrics = experiment.test_procedure(iw_samples=30)
    elbos = [experiment.test_procedure()["elbo"] for _ in range(10)]
    noise = torch.tensor(elbos).std().item()
    assert metrics["log_likelihood_bound"] >= sum(elbos) / len(elbos) - noise
    assert metrics["elbo"] == pytest.approx(sum(elbos) / len(elbos), abs=6 * noise)
    assert 1 <= metrics["ess"] <= 30


def test_importance_weighted_bound_is_computed_when_it_is_due(make_experiment):
    experiment = make_experiment(loglikelihood_every=4, loglikelihood_samples=3)
    for step, due in ((0, False), (2, False), (4, True), (6, False), (8, True)):
        experiment.model._global_step = step
        metrics = experiment.test_procedure()
        assert ("log_likelihood_bound" in metrics) is due
        assert ("ess" in metrics) is due
        assert all(math.isfinite(value) for value in metrics.values())


def test_pictures_are_of_the_held_out_scenes(make_experiment, tmp_path):
    experiment = make_experiment()
    experiment.model._global_step = 3
    experiment.save_images(str(tmp_path), nrows=4)
    names = {path.name for path in tmp_path.glob("*.png")}
    assert names == {"reconstruction_3.png", "sample_3.png"}
    with Image.open(tmp_path / "reconstruction_3.png") as picture:
        width, height = picture.size
    # 8 pairs in a row, each scene 16 pixels wide and 18 high, at three times the size.
    assert width == 8 * 3 * 16 + 9 * 6
    assert height == 2 * 3 * 18 + 3 + 2 * 6


# boilr's own trainer


@pytest.mark.parametrize("estimator", ["enumerate", "reinforce"])
def test_stock_boilr_trainer_runs(estimator, make_args, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    trainer = boilr.Trainer(AIRExperiment(make_args(estimator=estimator, max_steps=5)))
    trainer.run()
    trainer.tb_writer.close()
    experiment = trainer.experiment
    assert experiment.model.global_step == 5
    (run,) = (folder / "output").iterdir()
    assert run.name.endswith(f"multi-mnist_{estimator}_seed0")
    assert sorted(checkpoint_steps(run / "checkpoints")) == [2, 4]
    assert (run / "results" / "imgs" / "reconstruction_4.png").is_file()
    assert [step for step, _ in trainer.test_history.get_dict()["elbo"]] == [0, 2, 4]
    assert all(math.isfinite(value) for _, value in trainer.train_history.get_dict()["elbo"])
    assert "Reached steps limit" in capsys.readouterr().out
    # And its checkpoint can be read by the same experiment.
    other = AIRExperiment(make_args(estimator=estimator))
    other.setup(CPU, checkpoint_folder=str(run / "checkpoints"))
    assert other.model.global_step == 4
