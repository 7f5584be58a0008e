import json

import pytest
import torch

from air.evaluation import confusion_matrix, evaluate
from tests.small import small_images, small_model


def certain_model(count):
    """A model that is sure of one count, whatever it sees."""
    model = small_model(inference="paper")
    with torch.no_grad():
        last = model.inference.predictor.mlp[-1]
        last.weight.zero_()
        last.bias.zero_()
        last.bias[0] = 30.0 if count else -30.0
    return model


@pytest.mark.parametrize("count", [0, 3])
def test_counts_against_known_answers(count):
    labels = torch.tensor([0, 3, 3, 2, 1, 0, 3, 0])
    result = evaluate(certain_model(count), small_images(8), labels, num_samples=2, batch_size=3)
    expected = (labels == count).double().mean().item()
    assert result.count_accuracy == pytest.approx(expected)
    assert result.count_accuracy_mode == pytest.approx(expected)
    assert result.confusion[:, count].tolist() == labels.bincount().tolist()
    assert result.confusion.sum() == 8


def test_parts_add_up_and_bounds_are_ordered():
    torch.manual_seed(0)
    model, images = small_model(inference="paper"), small_images(40)
    labels = torch.zeros(40, dtype=torch.int64)
    seen = []
    result = evaluate(model, images, labels, num_samples=50, batch_size=15, on_batch=seen.append)
    parts = result.log_likelihood - result.kl_num_steps - result.kl_z_where - result.kl_z_what
    assert result.elbo == pytest.approx(parts, abs=1e-3)
    assert result.elbo < result.log_likelihood_bound
    assert 1 <= result.ess <= 50
    assert seen == [15, 15, 10]
    assert json.loads(json.dumps(result.to_dict()))["num_images"] == 40


def test_without_samples_there_is_no_bound():
    labels = torch.zeros(5, dtype=torch.int64)
    result = evaluate(small_model(inference="paper"), small_images(), labels, num_samples=0)
    assert result.log_likelihood_bound != result.log_likelihood_bound


def test_bad_labels_are_refused():
    with pytest.raises(ValueError, match="one entry an image"):
        evaluate(small_model(inference="paper"), small_images(5), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ValueError, match="nothing to evaluate"):
        evaluate(small_model(inference="paper"), small_images(0), torch.zeros(0, dtype=torch.int64))


def test_confusion_matrix():
    truth, inferred = torch.tensor([0, 1, 1, 4]), torch.tensor([0, 2, 1, 3])
    confusion = confusion_matrix(truth, inferred, max_objects=3)
    assert confusion.shape == (5, 4)
    assert confusion.sum() == 4
    for cell in ((0, 0), (1, 2), (1, 1), (4, 3)):
        assert confusion[cell] == 1
