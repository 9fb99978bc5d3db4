"""Masked autoencoding against a discriminator: what it sees, and what counts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.data.inputs import Inputs
from arcticseg.models.mae import unpatchify
from arcticseg.tasks.adversarial import Adversarial
from arcticseg.tasks.pretrain import Pretrain
from tests.tensors import inputs_of

PATCH, STRIDE = 4, 8


def inputs(holes: float = 0.3) -> Inputs:
    """Two samples of three planes with missing pixels, a patch of which has one valid value and one has none."""
    torch.manual_seed(0)
    x, data = 3 + torch.randn(2, 3, 16, 16), torch.rand(2, 3, 16, 16) > holes
    data[0, :, :4, :8] = False
    data[0, 0, 0, 0] = True
    return inputs_of(x * data, torch.full((2, 3, 16, 16), 255, dtype=torch.uint8), data)


def task(normalise: bool = True, mask_ratio: float = 0.75) -> Adversarial:
    return Adversarial([0, 2], PATCH, mask_ratio, 5, normalise, stride=STRIDE)


def asked_for(task: Adversarial, given: Inputs) -> np.ndarray:
    """Where a value is painted, bool [B, C, H, W], by the letter."""
    out = np.zeros((2, 2, 16, 16), bool)
    kept, fewest = task.draw([0, 1], 16), 2 if task.normalise else 1
    for b in range(2):
        for patch in set(range(16)) - set(kept[b].tolist()):
            row, column = PATCH * (patch // 4), PATCH * (patch % 4)
            there = given.data[b, [0, 2], row : row + PATCH, column : column + PATCH].numpy()
            if there.sum() >= fewest:
                out[b, :, row : row + PATCH, column : column + PATCH] = there
    return out


@pytest.mark.parametrize("mask_ratio", [0.25, 0.9])
@pytest.mark.parametrize("normalise", [False, True])
def test_cells_with_something_painted_count(normalise: bool, mask_ratio: float) -> None:
    gan, given = task(normalise, mask_ratio), inputs()
    painted = asked_for(gan, given).any(1)
    cells = sum(
        painted[b, row : row + STRIDE, column : column + STRIDE].any()
        for b in range(2)
        for row in (0, 8)
        for column in (0, 8)
    )
    plain = Pretrain([0, 2], PATCH, mask_ratio, 5, normalise)
    assert gan.counts(given).tolist() == [float(plain.counts(given)), cells, cells]
    nothing = replace(given, data=torch.zeros_like(given.data))
    assert gan.counts(nothing).tolist() == [0, 0, 0]


@pytest.mark.parametrize("normalise", [False, True])
def test_what_is_painted_is_the_prediction_at_the_scale_of_the_image(normalise: bool) -> None:
    gan, given = task(normalise), inputs()
    where = torch.from_numpy(asked_for(gan, given))
    target, _ = gan.target_of(given.values([0, 2]), given.valid([0, 2]))
    painted = gan.painted(target, given)
    real = given.x[:, [0, 2]]
    assert torch.equal(painted.real, real)
    # A prediction that is right gives the image back.
    torch.testing.assert_close(painted.fake, real, rtol=1e-5, atol=1e-5)
    other = gan.painted(target + 1, given)
    assert torch.equal(other.fake != real, where)
    if not normalise:
        torch.testing.assert_close(other.fake, real + where.float())
    else:
        row, column = np.argwhere(where[1].any(0).numpy())[0] // PATCH * PATCH
        window = np.s_[:, row : row + PATCH, column : column + PATCH]
        there = given.data[1, [0, 2]][window].numpy()
        # One more in units of the patch's own spread.
        spread = real[1].numpy()[window][there].std(ddof=1)
        moved = (other.fake - real)[1].numpy()[window][there]
        np.testing.assert_allclose(moved, spread, rtol=1e-3)


@pytest.mark.parametrize("normalise", [False, True])
def test_neither_network_uses_invalid_pixels(normalise: bool) -> None:
    gan, given = task(normalise), inputs()
    prediction = torch.randn(2, 16, 32, requires_grad=True)
    painted = gan.painted(prediction, given)
    missing = ~given.data[:, [0, 2]]
    for images in (painted.real, painted.fake):
        assert not images[missing].any()
    (gradient,) = torch.autograd.grad(painted.fake.sum(), prediction)
    asked = unpatchify(gradient, PATCH, (16, 16)) != 0
    assert torch.equal(asked, torch.from_numpy(asked_for(gan, given)))
    elsewhere = replace(given, x=torch.where(given.data, given.x, torch.tensor(1e4)))
    again = gan.painted(prediction, elsewhere)
    torch.testing.assert_close(again.fake, painted.fake)
    assert torch.equal(again.real, painted.real)


def test_hinge_losses_are_those_of_the_paper() -> None:
    gan, cells = task(), torch.tensor([1.0, 0, 1, 1]).view(1, 1, 2, 2)
    real, fake = (torch.tensor(values).view(1, 1, 2, 2) for values in ([0.5, -9, 3, -1], [0.25, 9, -2, 1.5]))
    # (0.5 + 0 + 2 + 1.25 + 0 + 2.5) / 2, by hand.
    assert gan.discrimination(real, fake, cells).tolist() == [pytest.approx(3.125)]
    assert gan.adversarial(fake, cells).tolist() == [pytest.approx(0.25)]


def test_validation_scores_the_reconstruction_alone() -> None:
    gan, plain, given = task(), Pretrain([0, 2], PATCH, 0.75, 5, True), inputs()

    def network(x: Tensor, *_: object) -> tuple[Tensor, None]:
        return torch.ones(2, 16, 32), None

    assert torch.equal(gan.tally(network, given, 2), plain.tally(network, given, 2))
    assert gan.sums(network, given).tolist() == [float(plain.sums(network, given)), 0, 0]
    assert gan.scores(np.array([1.0, 4.0])) == {"reconstruction": 0.75}
