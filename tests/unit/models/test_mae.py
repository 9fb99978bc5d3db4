"""The masked autoencoder."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from arcticseg.errors import ConfigError
from arcticseg.models.encoders.vit import build_vit
from arcticseg.models.mae import MaskedAutoencoder, patchify, random_mask, sincos_positions, unpatchify


def small_mae(channels: int = 3) -> MaskedAutoencoder:
    torch.manual_seed(0)
    vit = build_vit(channels, 32, "vit_tiny_patch16_224", patch_size=8, embed_dim=32, depth=2, num_heads=2)
    return MaskedAutoencoder(vit, out_chans=2, decoder_dim=16, decoder_depth=1, decoder_heads=2)


def test_patchify_lays_out_as_said_and_returns() -> None:
    images = torch.randn(2, 3, 16, 24)
    patches = patchify(images, 8)
    assert patches.shape == (2, 6, 192)
    # Patch 4 is row 1, column 1; its element for row 2, column 5, channel 1.
    assert patches[1, 4, (2 * 8 + 5) * 3 + 1] == images[1, 1, 8 + 2, 8 + 5]
    torch.testing.assert_close(unpatchify(patches, 8, (16, 24)), images, rtol=0, atol=0)


@pytest.mark.parametrize(("ratio", "removed"), [(0.75, 12), (0.0, 0), (0.5, 8), (0.99, 15)])
def test_mask_removes_the_noisiest(ratio: float, removed: int) -> None:
    noise = torch.rand(3, 16)
    kept, mask = random_mask(noise, ratio)
    expected = np.zeros((3, 16))
    for row, values in enumerate(noise.numpy()):
        expected[row, np.argsort(values)[16 - removed :]] = 1
    np.testing.assert_array_equal(mask.numpy(), expected)
    np.testing.assert_array_equal(kept.numpy(), [np.flatnonzero(row == 0) for row in expected])


def test_shapes_and_determinism() -> None:
    mae, x, noise = small_mae(), torch.randn(2, 3, 32, 48), torch.rand(2, 24)
    pred, mask = mae(x, noise, 0.75)
    assert pred.shape == (2, 24, 8 * 8 * 2)
    assert mask.sum(dim=1).tolist() == [18, 18]
    torch.testing.assert_close(mae(x, noise, 0.75)[0], pred, rtol=0, atol=0)
    assert torch.equal(mae(x, torch.rand(2, 24), 0.75)[1], mask) is False


def test_without_masking_the_encoder_is_the_plain_one() -> None:
    mae, x = small_mae().eval(), torch.randn(2, 3, 32, 32)
    kept, _ = random_mask(torch.rand(2, 16), 0.0)
    torch.testing.assert_close(mae.encoder(x, kept)[0], mae.encoder(x)[-1].flatten(2).transpose(1, 2))


def test_prediction_does_not_see_what_is_removed() -> None:
    mae, x, noise = small_mae().eval(), torch.randn(1, 3, 32, 32), torch.rand(1, 16)
    pred, mask = mae(x, noise, 0.5)
    hidden = unpatchify(mask.unsqueeze(-1).expand(-1, -1, 64), 8, (32, 32))
    torch.testing.assert_close(mae(x + 5 * hidden, noise, 0.5)[0], pred, rtol=0, atol=0)


def test_every_parameter_learns() -> None:
    mae = small_mae()
    pred, mask = mae(torch.randn(2, 3, 32, 32), torch.rand(2, 16), 0.5)
    (pred.square().mean(dim=-1) * mask).sum().backward()
    still = [name for name, p in mae.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert still == ["encoder.pos_embed"]


def test_positions_tell_all_patches_apart() -> None:
    codes = sincos_positions(5, 7, 16)
    assert codes.shape == (35, 16)
    assert torch.unique(codes, dim=0).shape[0] == 35
    # Row 0 and column 0: sines are 0, cosines 1.
    np.testing.assert_array_equal(codes[0].numpy(), [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4)


def test_widths_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match=r"decoder_dim 18.* decoder_heads 2"):
        MaskedAutoencoder(small_mae().encoder, 2, decoder_dim=18, decoder_depth=1, decoder_heads=2)
