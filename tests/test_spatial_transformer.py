import pytest
import torch
import torch.nn.functional as F

from air.spatial_transformer import boxes_in_pixels, extract_glimpses, place_objects

SHAPES = [  # channels, source size, target size
    (1, (7, 7), (12, 12)),
    (3, (5, 8), (11, 9)),
    (3, (12, 10), (4, 6)),
    (1, (9, 4), (9, 4)),
]


def reference(images, z_where, size, *, inverse):
    """The same by ``affine_grid`` and ``grid_sample``."""
    s, x, y = z_where.unbind(-1)
    if inverse:
        s, x, y = 1 / s, -x / s, -y / s
    zero = torch.zeros_like(s)
    theta = torch.stack([torch.stack([s, zero, x], -1), torch.stack([zero, s, y], -1)], -2)
    grid = F.affine_grid(theta, [len(images), 1, *size], align_corners=False)
    return F.grid_sample(images, grid, align_corners=False, padding_mode="zeros")


def poses(number, generator):
    """Poses that leave the object inside, at the edge and far outside of the canvas."""
    z_where = torch.randn(number, 3, generator=generator, dtype=torch.float64)
    z_where[:, 0] = z_where[:, 0].abs() + 0.6
    z_where[:, 1:] *= 2
    z_where[0, 1:] = 40.0
    return z_where


@pytest.mark.parametrize(("channels", "source", "target"), SHAPES)
@pytest.mark.parametrize("inverse", [False, True])
def test_equals_grid_sample_in_value_and_gradient(channels, source, target, inverse):
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(40, channels, *source, generator=generator, dtype=torch.float64)
    images.requires_grad_()
    z_where = poses(40, generator).requires_grad_()
    ours = (extract_glimpses if inverse else place_objects)(images, z_where, target)
    theirs = reference(images, z_where, target, inverse=inverse)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    weights = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    our_grads = torch.autograd.grad((ours * weights).sum(), [images, z_where])
    their_grads = torch.autograd.grad((theirs * weights).sum(), [images, z_where])
    for our_grad, their_grad in zip(our_grads, their_grads, strict=True):
        torch.testing.assert_close(our_grad, their_grad, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("transform", [place_objects, extract_glimpses])
def test_gradcheck(transform):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 2, 5, 4, generator=generator, dtype=torch.float64)
    z_where = torch.randn(2, 3, 3, generator=generator, dtype=torch.float64) * 0.3
    z_where[..., 0] += 1.7
    inputs = (images.requires_grad_(), z_where.requires_grad_())
    assert torch.autograd.gradcheck(lambda i, z: transform(i, z, (6, 7)), inputs)


def test_works_under_vmap():
    images = torch.rand(4, 5, 1, 6, 6)
    z_where = torch.tensor([1.5, 0.2, -0.1]).expand(4, 5, 3)
    batched = torch.func.vmap(lambda i, z: place_objects(i, z, (8, 8)))(images, z_where)
    torch.testing.assert_close(batched, place_objects(images, z_where, (8, 8)))


def test_extract_undoes_place():
    """A canvas twice as large as the object: every object pixel has a canvas pixel of its own."""
    glimpse = torch.rand(1, 1, 8, 8)
    z_where = torch.tensor([[2.0, 0.5, -0.25]])
    canvas = place_objects(glimpse, z_where, (16, 16))
    torch.testing.assert_close(extract_glimpses(canvas, z_where, (8, 8)), glimpse)


def test_identity():
    image = torch.rand(2, 3, 6, 7)
    z_where = torch.tensor([1.0, 0.0, 0.0]).expand(2, 3)
    torch.testing.assert_close(place_objects(image, z_where, (6, 7)), image)


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (10, 12)])
def test_boxes_equal_the_lit_region_on_the_pixel_grid(corner):
    """A white glimpse of 6x8 pixels, placed pixel by pixel on a canvas twice as large."""
    top, left = corner[0] % 7, corner[1] % 9
    size = (12, 16)
    # Its centre in canvas coordinates; x and y are read at s * u + x = 0 there.
    u, v = 2 * (left + 4) / 16 - 1, 2 * (top + 3) / 12 - 1
    z_where = torch.tensor([2.0, -2.0 * u, -2.0 * v])
    canvas = place_objects(torch.ones(1, 6, 8), z_where, size)[0]
    rows, columns = (canvas > 1e-6).nonzero().unbind(1)
    lit = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    torch.testing.assert_close(boxes_in_pixels(z_where, size), torch.tensor(lit).float())


def test_boxes_follow_the_lit_region_anywhere():
    """Off the grid the lit region is at most one pixel, seen from its edge, off the box."""
    generator = torch.Generator().manual_seed(2)
    for _ in range(50):
        z_where = torch.rand(3, generator=generator) * torch.tensor([1.5, 1.0, 1.0])
        z_where = z_where + torch.tensor([2.0, -0.5, -0.5])
        size = (40, 30)
        canvas = place_objects(torch.ones(1, 20, 15), z_where, size)[0]
        rows, columns = (canvas > 1e-6).nonzero().unbind(1)
        lit = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (boxes_in_pixels(z_where, size) - lit).abs().max() < 1


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="same leading shape"):
        place_objects(torch.rand(2, 1, 4, 4), torch.ones(3, 3), (8, 8))
    with pytest.raises(ValueError, match=r"z_where \(\*, 3\)"):
        extract_glimpses(torch.rand(2, 1, 4, 4), torch.ones(2, 4), (8, 8))
    with pytest.raises(ValueError, match="images must have shape"):
        extract_glimpses(torch.rand(4, 4), torch.ones(3), (8, 8))
