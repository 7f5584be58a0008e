"""Views of an image moved by some pixels: the same scene, the same bound."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from air.elbo import count_tensors, elbo_parts, log_weights
from air.evaluation import evaluate
from air.shifts import move_back, move_images, shift_grid
from tests.small import CONFIG, INFERENCE, small_images, small_model, unroll
from tests.test_elbo import linear_model

SHIFTS = torch.tensor([[0, 0], [2, 0], [0, -3], [-1, 4], [20, 0]])


def test_grid_is_square_and_begins_with_no_shift():
    grid = shift_grid(4)
    assert grid[0].tolist() == [0, 0]
    lines = [-4, -2, 0, 2, 4]
    assert sorted(map(tuple, grid.tolist())) == [(row, column) for row in lines for column in lines]
    assert shift_grid(0).tolist() == [[0, 0]]
    assert len(shift_grid(1)) == 9  # between pixels there is none
    assert len(shift_grid(6, per_side=3)) == 49


@pytest.mark.parametrize("bad", [(-1, 2), (3, 0)])
def test_grid_refuses_nonsense(bad):
    with pytest.raises(ValueError, match="max_shift"):
        shift_grid(bad[0], per_side=bad[1])


def test_images_move_down_and_right_and_zeros_come_in():
    images = small_images(5)
    moved = move_images(images, SHIFTS)
    padded = F.pad(images, (30, 30, 30, 30))
    height, width = images.shape[-2:]
    for image, found, (down, right) in zip(padded, moved, SHIFTS.tolist(), strict=True):
        top, left = 30 - down, 30 - right
        assert torch.equal(found, image[:, top : top + height, left : left + width])


def test_an_object_moved_back_is_where_it_was():
    """What is drawn from the rollout of a moved image, is the moved drawing moved back."""
    model = small_model(dtype=torch.float64)
    images, shifts = small_images(4, dtype=torch.float64), SHIFTS[:4]
    seen = model(move_images(images, shifts), num_samples=2)
    rollout = seen.rollout
    # Poses at their means, of objects well inside the canvas.
    pose = torch.tensor([4.0, 0.1, -0.2], dtype=torch.float64).expand_as(rollout.z_where)
    rollout = dataclasses.replace(rollout, z_where=pose, z_where_mean=pose)
    back = move_back(rollout, shifts, CONFIG.canvas_size)
    before = model.generative.render(rollout.z_where, rollout.z_what)
    after = model.generative.render(back.z_where, back.z_what)
    for step in range(CONFIG.max_objects):
        for sample in range(2):
            again = move_images(after[sample, :, step], shifts)
            torch.testing.assert_close(again, before[sample, :, step])
    torch.testing.assert_close(back.z_where_mean, back.z_where)
    assert torch.equal(back.z_where_sd, rollout.z_where_sd)


@pytest.mark.parametrize("inference", INFERENCE)
def test_no_shift_is_no_shift(inference):
    model, images = small_model(inference=inference), small_images(3)
    plain, zero = (
        _seeded(lambda s=shifts: model(images, num_samples=2, shifts=s))
        for shifts in (None, torch.zeros(3, 2, dtype=torch.int64))
    )
    torch.testing.assert_close(plain.elbo, zero.elbo)
    torch.testing.assert_close(plain.objects, zero.objects)


@pytest.mark.parametrize("inference", INFERENCE)
def test_the_likelihood_is_of_the_image_itself(inference):
    """Drawn objects are where the poses say, and the image is compared where it is."""
    model, images = small_model(inference=inference), small_images(4)
    output = model(images, shifts=SHIFTS[:4])
    objects = model.generative.render(output.rollout.z_where, output.rollout.z_what)
    torch.testing.assert_close(output.objects, objects)
    torch.testing.assert_close(
        output.counts.log_likelihood, model.generative.log_likelihood(images, objects)
    )


def test_weights_of_a_moved_view_are_unbiased():
    """Its mean weight is p(x), as that of every view: so all its bounds are bounds of log p(x)."""
    images = small_images(4, dtype=torch.float64) * 0.7
    torch.manual_seed(0)
    model = linear_model(likelihood_sd=1.0)
    evidence = model.generative.log_evidence(images, model.prior().num_steps)
    with torch.no_grad():
        output = model(images, num_samples=20_000, shifts=SHIFTS[:4])
    ratios = (log_weights(output.rollout, output.counts, model.prior()) - evidence).exp()
    error = ratios.std(dim=0) / math.sqrt(len(ratios))
    assert ((ratios.mean(dim=0) - 1).abs() < 4 * error).all()
    assert (output.elbo.mean(dim=0) < evidence).all()
    bound = model.log_likelihood(images, 2000, shifts=SHIFTS[:4])
    assert (bound.log_likelihood - evidence).abs().max() < 0.5
    posterior = model.count_posterior(images, 2000, shifts=SHIFTS[:4])
    assert (posterior.probs.sum(dim=-1) - 1).abs().max() < 1e-9


def test_infer_keeps_the_view_of_the_highest_elbo():
    model, images = small_model(), small_images(6)
    grid = shift_grid(3)
    reading = model.infer(images, shifts=grid, batch_size=4)
    readings = [model.infer(images, shifts=shift[None]) for shift in grid]
    elbos = torch.stack([_elbo_at_means(model, images, shift) for shift in grid])
    best = elbos.argmax(dim=0)
    assert len(best.unique()) > 1
    for row, view in enumerate(best.tolist()):
        assert reading.shifts[row].tolist() == grid[view].tolist()
        assert reading.counts[row] == readings[view].counts[row]
        torch.testing.assert_close(reading.boxes[row], readings[view].boxes[row], equal_nan=True)
        torch.testing.assert_close(reading.canvas[row], readings[view].canvas[row])
    assert model.infer(images).shifts.eq(0).all()


def test_evaluation_is_of_the_chosen_views():
    model, images = small_model(), small_images(60)
    labels = torch.zeros(60, dtype=torch.int64)
    plain, chosen = (
        _seeded(lambda s=shifts: evaluate(model, images, labels, num_samples=20, shifts=s))
        for shifts in (None, shift_grid(4))
    )
    assert chosen.elbo > plain.elbo
    assert chosen.elbo < chosen.log_likelihood_bound
    counts = model.infer(images, shifts=shift_grid(4)).counts
    assert chosen.count_accuracy_mode == pytest.approx((counts == 0).double().mean().item())


@pytest.mark.parametrize(
    "shifts", [torch.zeros(2, dtype=torch.int64), torch.zeros(0, 2).long(), torch.zeros(3, 2)]
)
def test_infer_refuses_what_is_no_list_of_shifts(shifts):
    with pytest.raises(ValueError, match="shifts must be integer"):
        small_model().infer(small_images(3), shifts=shifts)


@pytest.mark.parametrize("shifts", [torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, 2)])
def test_forward_wants_one_shift_an_image(shifts):
    with pytest.raises(ValueError, match="one \\(down, right\\) an image"):
        small_model()(small_images(3), shifts=shifts)


def _elbo_at_means(model, images, shift):
    """By hand: the deterministic rollout's counts against the image itself."""
    each, prior = shift.expand(len(images), 2), model.prior()
    with torch.no_grad():
        rollout = unroll(model, move_images(images, each), use_means=True)
        rollout = move_back(rollout, each, CONFIG.canvas_size)
        objects = model.generative.render(rollout.z_where, rollout.z_what)
        likelihood = model.generative.log_likelihood(images, objects)
        return elbo_parts(count_tensors(rollout, likelihood, prior)).elbo[0]


def _seeded(make):
    torch.manual_seed(0)
    with torch.no_grad():
        return make()
