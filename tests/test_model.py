import dataclasses
import json

import pytest
import torch

import air
from air import AIR, AIRConfig
from air.estimators import ESTIMATORS, make_estimator
from tests.small import CONFIG, small_images, small_model

VARIANTS = [
    {},
    {"max_objects": 1},
    {"channels": 3},
    {"likelihood": "bernoulli"},
    {"overlap": "union"},
    {"num_candidates": 1},
    {"learn_continue_prob": True},
    {"glimpse_size": (9, 9), "canvas_size": (8, 21)},
    {"z_where_mean": (3, 0, 0), "z_where_sd": (1, 1, 1)},
    {"inference": "paper"},
    {"inference": "paper", "max_objects": 1},
    {"inference": "paper", "channels": 3},
    {"inference": "paper", "likelihood": "bernoulli", "predictor_hidden": (7, 6)},
    {"inference": "paper", "glimpse_size": (9, 9), "canvas_size": (8, 21)},
]


def variant(changes, **options):
    model = small_model(**options, **changes)
    return model, small_images(config=model.config, dtype=options.get("dtype", torch.float32))


@pytest.mark.parametrize("changes", VARIANTS, ids=str)
class TestEveryModel:
    """What holds for any configuration."""

    def test_shapes(self, changes):
        model, images = variant(changes)
        steps = model.max_objects
        output = model(images, num_samples=2)
        assert output.elbo.shape == (2, 5)
        assert output.elbo.isfinite().all()
        assert output.count_probs.shape == (2, 5, steps + 1)
        assert output.objects.shape == (2, 5, steps, *model.config.image_shape)
        for name in ("log_likelihood", "kl_num_steps", "kl_z_where", "kl_z_what", "kl"):
            assert getattr(output.elbo_parts, name).shape == (2, 5)

    def test_every_parameter_gets_a_gradient(self, changes):
        for name in ESTIMATORS:
            model, images = variant(changes)
            estimator = make_estimator(name, model.config, num_samples=2)
            estimator(model, images).total_loss.backward()
            for key, parameter in [*model.named_parameters(), *estimator.named_parameters()]:
                if model.max_objects == 1 and "recurrence" in key:
                    continue  # one step has none before it
                assert parameter.grad is not None, (name, key)
                assert parameter.grad.isfinite().all(), (name, key)
                assert parameter.grad.abs().sum() > 0, (name, key)

    def test_batch_of_one(self, changes):
        model, images = variant(changes)
        assert model(images[:1]).elbo.shape == (1, 1)
        assert model.infer(images[:1]).counts.shape == (1,)

    def test_infer(self, changes):
        model, images = variant(changes)
        result = model.infer(images, batch_size=2)
        steps, (channels, height, width) = model.max_objects, model.config.image_shape
        assert result.counts.shape == (5,)
        torch.testing.assert_close(result.count_probs.sum(-1), torch.ones(5))
        assert result.counts.equal(result.count_probs.argmax(-1))
        assert result.boxes.shape == (5, steps, 4)
        assert result.boxes.isfinite().all(-1).equal(result.present)
        assert result.present.sum(-1).equal(result.counts)
        assert result.canvas.shape == (5, channels, height, width)
        assert result.objects.shape == (5, steps, channels, height, width)
        assert (result.objects[~result.present] == 0).all()
        whole = model.infer(images)
        for field in dataclasses.fields(whole):
            torch.testing.assert_close(
                getattr(whole, field.name), getattr(result, field.name), equal_nan=True
            )

    def test_float64(self, changes):
        model, images = variant(changes, dtype=torch.float64)
        assert model(images).elbo.dtype == torch.float64
        assert model.infer(images).boxes.dtype == torch.float64
        assert model.log_likelihood(images, 3).log_likelihood.dtype == torch.float64

    def test_config_survives_json(self, changes):
        config = AIRConfig(**(CONFIG.to_dict() | changes))
        assert AIRConfig.from_json(config.to_json()) == config

    def test_weights_survive_a_round_trip(self, changes):
        model, images = variant(changes)
        other = AIR(model.config)
        other.load_state_dict(model.state_dict())
        assert other.infer(images).count_probs.equal(model.infer(images).count_probs)

    def test_repr_is_short(self, changes):
        model, _ = variant(changes)
        assert len(repr(model)) < 3000


def test_canvas_of_infer_is_the_sum_of_its_objects():
    model, images = variant({})
    result = model.infer(images)
    torch.testing.assert_close(result.canvas, result.objects.sum(dim=1))


def test_prior_of_the_caller_replaces_the_models_own():
    model, images = variant({})
    torch.manual_seed(0)
    own = model(images)
    torch.manual_seed(0)
    sparse = model(images, model.prior(1e-9))
    assert (sparse.elbo_parts.kl_num_steps > own.elbo_parts.kl_num_steps).all()
    torch.testing.assert_close(sparse.elbo_parts.kl_z_what, own.elbo_parts.kl_z_what)


def test_given_likelihood_sd():
    model, images = variant({})
    torch.manual_seed(0)
    wide = model(images, likelihood_sd=1.0)
    torch.manual_seed(0)
    assert not model(images).elbo.equal(wide.elbo)
    assert model.log_likelihood(images, 2, likelihood_sd=1.0).log_likelihood.isfinite().all()


def test_uint8_is_float_times_255():
    model = small_model()
    byte = (small_images() * 255).to(torch.uint8)
    torch.testing.assert_close(
        model.infer(byte).boxes, model.infer(byte / 255).boxes, equal_nan=True
    )


def test_same_seed_same_result():
    model, images = variant({})
    draws = []
    for _ in range(2):
        torch.manual_seed(5)
        draws.append(model(images).elbo)
    assert draws[0].equal(draws[1])


BAD_IMAGES = [
    (torch.rand(5, 14, 12), r"Add the channel axis: images\[:, None\]"),
    (torch.rand(1, 13, 12), r"Add the batch axis: images\[None\]"),
    (torch.rand(14, 12), "must have shape"),
    (torch.rand(5, 3, 14, 12), r"AIRConfig\(canvas_size=\(14, 12\), channels=3\)"),
    (torch.rand(5, 14, 12, 1), r"permute\(0, 3, 1, 2\)"),
    (torch.rand(5, 1, 28, 28), "Resize"),
    (torch.rand(0, 1, 14, 12), "batch is empty"),
    (torch.rand(5, 1, 14, 12) * 255, "divide by 255"),
    (torch.rand(5, 1, 14, 12) * 2 - 1, r"\(images \+ 1\) / 2"),
    (torch.full((5, 1, 14, 12), float("nan")), "840 NaN"),
    (torch.full((5, 1, 14, 12), float("inf")), r"must lie in \[0, 1\]"),
    (torch.ones(5, 1, 14, 12, dtype=torch.int64), "float in"),
]


@pytest.mark.parametrize(("images", "message"), BAD_IMAGES, ids=[m for _, m in BAD_IMAGES])
def test_bad_images_are_refused_everywhere(images, message):
    model = small_model()
    for method in (model, model.infer, model.log_likelihood):
        with pytest.raises(ValueError, match=message):
            method(images)


def test_bad_numbers_of_samples_are_refused():
    model, images = variant({})
    with pytest.raises(ValueError, match="num_samples"):
        model(images, num_samples=0)
    with pytest.raises(ValueError, match="num_samples"):
        model.log_likelihood(images, 0)
    with pytest.raises(ValueError, match="batch_size"):
        model.infer(images, batch_size=0)


BAD_CONFIGS = [
    ({"overlap": "max"}, "unknown overlap 'max'. Expected one of: sum, union"),
    ({"canvas_size": (50, 1)}, "canvas_size"),
    ({"canvas_size": 50}, "canvas_size must be of type"),
    ({"canvas_size": (50, 2001)}, "canvas_size must be at most"),
    ({"glimpse_size": (28, 28, 1)}, "glimpse_size"),
    ({"channels": 2}, "channels"),
    ({"max_objects": 0}, "max_objects"),
    ({"max_objects": 2.5}, "max_objects must be of type int"),
    ({"max_objects": True}, "max_objects must be of type int"),
    ({"z_where_mean": (0.0, 0.0, 0.0)}, "scale above 0"),
    ({"z_where_sd": (0.2, 0.0, 1.0)}, "z_where_sd"),
    ({"z_where_sd": (0.2, 1.0)}, "z_where_sd"),
    ({"continue_prob": 1.0}, "continue_prob"),
    ({"continue_prob": float("nan")}, "continue_prob"),
    ({"likelihood": "gaussian"}, "Expected one of: bernoulli, normal"),
    ({"likelihood_sd": 0.0}, "likelihood_sd"),
    ({"inference": "lstm"}, "unknown inference 'lstm'. Expected one of: paper, residual"),
    ({"num_candidates": 0}, "num_candidates must be at least 1"),
    ({"num_candidates": 1001}, "num_candidates must be at most 1000"),
    ({"likelihood_sd": "0.3"}, "likelihood_sd must be of type float"),
    ({"encoder_hidden": (0,)}, "encoder_hidden"),
    ({"learn_continue_prob": 1}, "learn_continue_prob"),
]


@pytest.mark.parametrize(("fields", "message"), BAD_CONFIGS, ids=[str(f) for f, _ in BAD_CONFIGS])
def test_bad_configs_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AIRConfig.from_dict(fields)


def test_bad_json_is_refused():
    with pytest.raises(ValueError, match=r"unknown config field.*'n_obj'"):
        AIRConfig.from_json(json.dumps({"n_obj": 3}))
    with pytest.raises(ValueError, match="expected an object"):
        AIRConfig.from_json("[1]")
    with pytest.raises(ValueError, match="Expecting"):
        AIRConfig.from_json("{")


def test_config_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        AIRConfig().max_objects = 5


def test_public_names():
    assert set(air.__all__) == {
        "AIR",
        "AIRConfig",
        "Chain",
        "Constant",
        "Cosine",
        "Detections",
        "Exponential",
        "Linear",
        "NumSteps",
        "Predictions",
        "Prior",
        "TruncatedGeometric",
        "fit",
        "make_estimator",
    }
