import json

import pytest
import torch
from torchmetrics.functional.classification import (
    binary_calibration_error,
    multiclass_calibration_error,
)

from experiments.calibration import (
    TITLES,
    calibrate,
    draw_reliability,
    format_calibration,
    judge,
    reliability,
    to_dict,
)
from tests.small import small_images, small_model
from tests.test_evaluation import certain_model


def posterior(number=4000, counts=4, seed=0):
    """Posteriors over counts, and counts drawn from them: perfectly calibrated."""
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(number, counts, generator=generator)).softmax(dim=-1)
    return probs, torch.multinomial(probs, 1, generator=generator).squeeze(1)


def test_error_of_known_forecasts():
    """Four at 0.75, of which two come true; one at 0.1 that does not: (4 * 0.25 + 0.1) / 5."""
    result = reliability(
        torch.tensor([0.75, 0.75, 0.75, 0.75, 0.1]),
        torch.tensor([1, 1, 0, 0, 0]).bool(),
        num_bins=5,
    )
    assert result.number.tolist() == [1, 0, 0, 4, 0]
    assert result.error == pytest.approx(0.22)
    assert result.to_dict() == {
        "number": [1, 4],
        "probability": pytest.approx([0.1, 0.75]),
        "frequency": [0.0, 0.5],
    }


@pytest.mark.parametrize("sharpness", [1.0, 3.0])
def test_errors_are_those_of_torchmetrics(sharpness):
    probs, true = posterior()
    probs = (sharpness * probs.log()).softmax(dim=-1)
    result = judge(probs, true)
    expected = multiclass_calibration_error(probs, true, num_classes=4, n_bins=15, norm="l1")
    assert result.error == pytest.approx(expected.item(), abs=1e-5)
    for n, error in enumerate(result.error_by_count):
        expected = binary_calibration_error(
            probs[:, n].clone(), (true == n).long(), n_bins=15, norm="l1"
        )
        assert error == pytest.approx(expected.item(), abs=1e-5)


def test_draws_from_the_posterior_are_calibrated_and_sharper_claims_are_not():
    probs, true = posterior(20_000)
    fair = judge(probs, true)
    assert fair.error < 0.015
    assert fair.accuracy == pytest.approx(fair.confidence, abs=0.015)
    sharp = judge((5 * probs.log()).softmax(dim=-1), true)
    assert sharp.accuracy == fair.accuracy
    assert sharp.error == pytest.approx(sharp.confidence - sharp.accuracy, abs=0.01)
    assert sharp.error > 0.1


def test_certain_and_impossible_forecasts_have_a_bin():
    result = reliability(torch.tensor([0.0, 1.0]), torch.tensor([False, True]))
    assert result.number.tolist() == [1, *[0] * 13, 1]
    assert result.error == 0


@pytest.mark.parametrize("values", [[], [1.5], [-0.1], [float("nan")]], ids=str)
def test_what_is_no_probability_is_refused(values):
    with pytest.raises(ValueError, match="between 0 and 1"):
        reliability(torch.tensor(values), torch.zeros(len(values), dtype=torch.bool))


def test_three_posteriors_of_a_model(tmp_path):
    torch.manual_seed(0)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2])
    done = []
    result = calibrate(
        small_model(), small_images(7), labels, num_samples=5, batch_size=3, on_batch=done.append
    )
    assert list(result) == list(TITLES) == ["means", "q", "p"]
    assert done == [3, 3, 1]
    for one in result.values():
        assert len(one.error_by_count) == 4
        assert sum(one.bins["number"]) == 7
    assert json.loads(json.dumps(to_dict(result), allow_nan=False))["p"]["bins"]
    assert all(title in format_calibration(result) for title in TITLES.values())
    (tmp_path / "picture.png").write_bytes(draw_reliability(result))
    assert (tmp_path / "picture.png").stat().st_size > 1000


def test_a_model_that_is_sure_is_as_wrong_as_it_is_wrong():
    """q is sure of 3 objects; three of four labels are others."""
    labels = torch.tensor([3, 0, 1, 2])
    result = calibrate(certain_model(3), small_images(4), labels, num_samples=2)
    for name in ("means", "q"):
        assert result[name].accuracy == 0.25
        assert result[name].error == pytest.approx(0.75, abs=1e-4)
