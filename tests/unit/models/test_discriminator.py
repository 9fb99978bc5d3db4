"""The patch discriminator: cells, their neighbourhood, samples apart."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from arcticseg.models.discriminator import PatchDiscriminator


@pytest.mark.parametrize(("depth", "size"), [(1, 12), (2, 20), (3, 40), (3, 37)])
def test_a_logit_for_each_cell(depth: int, size: int) -> None:
    network = PatchDiscriminator(3, 8, depth)
    assert network.stride == 2**depth
    assert network(torch.randn(2, 3, size, size)).shape == (2, 1, size // 2**depth, size // 2**depth)


def test_a_sample_is_judged_by_itself() -> None:
    torch.manual_seed(0)
    network, images = PatchDiscriminator(2, 8, 2), torch.randn(3, 2, 16, 16)
    together = network(images)
    for image, logits in zip(images, together, strict=True):
        torch.testing.assert_close(network(image[None])[0], logits, rtol=1e-5, atol=1e-6)


def test_nothing_in_it_moves_real_and_painted_images_alike() -> None:
    """A constant added to all logits has no gradient under hinge losses, but rounding."""
    network = PatchDiscriminator(2, 8, 2)
    assert network.logit.bias is None
    assert max(part.out_channels for part in network.modules() if isinstance(part, torch.nn.Conv2d)) == 32
