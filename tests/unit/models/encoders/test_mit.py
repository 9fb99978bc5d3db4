"""Mix transformers."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

# After the compatible import above.
from segmentation_models_pytorch.encoders import get_encoder

from arcticseg import config
from arcticseg.errors import ConfigError
from arcticseg.models.config import EncoderConfig, MiTConfig, ModelConfig
from arcticseg.models.encoders.mit import MiTEncoder


@pytest.mark.parametrize("name", ["mit_b0", "mit_b1", "mit_b2", "mit_b5"])
def test_as_many_weights_as_in_the_library(name: str) -> None:
    chosen = EncoderConfig.named(name)
    assert isinstance(chosen, MiTConfig)
    with torch.device("meta"):
        encoder = chosen.make(3, 384)
    # The library's own cannot be made on the meta device.
    own = get_encoder(name, weights=None)
    assert isinstance(encoder, MiTEncoder)
    assert {key: value.shape for key, value in encoder.state_dict().items()} == {
        key: value.shape for key, value in own.state_dict().items()
    }
    assert encoder.dims == tuple(own.out_channels[2:])


def test_the_size_of_the_second_is_that_of_the_paper() -> None:
    with torch.device("meta"):
        encoder = EncoderConfig.named("mit_b2").make(3, 384)
    # 24.2 M, table 6 of the paper.
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(24.2e6, rel=2e-3)


def test_the_maps_are_those_of_the_library_for_any_size() -> None:
    torch.manual_seed(0)
    encoder = MiTEncoder(3, 64, "mit_b0").train()
    own = get_encoder("mit_b0", weights=None).eval()
    own.load_state_dict(encoder.state_dict())
    for size in ((64, 64), (32, 96)):
        x = torch.randn(2, 3, *size)
        maps, theirs = encoder(x), own(x)[2:]
        for y, expected, stride in zip(maps, theirs, encoder.strides, strict=True):
            torch.testing.assert_close(y, expected)
            assert y.shape[2:] == (size[0] // stride, size[1] // stride)


def test_any_count_of_planes() -> None:
    assert [tuple(y.shape) for y in MiTEncoder(7, 64, "mit_b0")(torch.randn(1, 7, 32, 32))] == [
        (1, dim, 32 // stride, 32 // stride) for dim, stride in ((32, 4), (64, 8), (160, 16), (256, 32))
    ]


def test_there_are_six() -> None:
    with pytest.raises(ConfigError, match=r"'model\.encoder\.name' is 'mit_b6'; set one of "):
        config.build(ModelConfig, {"encoder": "mit_b6"}, "model.")


def test_its_layers_are_its_stages() -> None:
    with torch.device("meta"):
        encoder = MiTEncoder(3, 64, "mit_b0")
    layers = {encoder.layer_of(name): name for name, _ in encoder.named_parameters()}
    assert set(layers) == {0, 1, 2, 3, 4}
    assert (encoder.n_layers, layers[0].split(".")[0]) == (5, "patch_embed1")
    assert encoder.layer_of("patch_embed2.proj.weight") == encoder.layer_of("block2.0.norm1.weight") == 2
