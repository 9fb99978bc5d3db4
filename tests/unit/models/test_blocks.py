"""Blocks in the form that a GPU gets: the numbers of torch's own, in either memory format, and no copies between."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from torch import Tensor, nn

from arcticseg.models import blocks
from arcticseg.models.blocks import brought, coarse, conv_norm, group_norm, group_normalised, resize, resize_by_products
from arcticseg.models.build import build_segmenter
from arcticseg.models.decoders import light
from arcticseg.models.decoders import unet as unet_decoder
from arcticseg.models.encoders import unet, vit
from tests.networks import small

FORMATS = [torch.contiguous_format, torch.channels_last]


def maps(*shape: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
    torch.manual_seed(0)
    return torch.randn(shape).contiguous(memory_format=layout).requires_grad_()


def gradients(y: Tensor, *of: Tensor) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    return torch.autograd.grad(y, of, torch.randn(y.shape))


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("channels", [3, 8])
@pytest.mark.parametrize("sizes", [(5, 7, 10, 14), (6, 4, 9, 11), (8, 9, 3, 4), (1, 3, 6, 6), (7, 5, 7, 5)])
def test_resize_by_products(sizes: tuple[int, int, int, int], channels: int, layout: torch.memory_format) -> None:
    x = maps(2, channels, *sizes[:2], layout=layout)
    expected = F.interpolate(x, size=sizes[2:], mode="bilinear", align_corners=False)
    y = resize_by_products(x, *sizes[2:])
    torch.testing.assert_close(y, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradients(y, x), gradients(expected, x), rtol=1e-6, atol=2e-6)
    if channels == 8:
        assert y.is_contiguous(memory_format=layout)


def test_resize_on_a_cpu_is_torchs_own() -> None:
    x = maps(1, 2, 4, 6)
    assert torch.equal(resize(x, (9, 7)), F.interpolate(x, size=(9, 7), mode="bilinear", align_corners=False))


def test_resize_learns_after_a_prediction_asked_first() -> None:
    with torch.inference_mode():
        resize_by_products(torch.zeros(1, 1, 11, 13), 17, 19)
    x = maps(1, 1, 11, 13)
    assert gradients(resize_by_products(x, 17, 19), x)[0].abs().sum() > 0


@pytest.mark.parametrize("layout", FORMATS)
@pytest.mark.parametrize("middle", [0.0, 20.0])
def test_group_normalised(middle: float, layout: torch.memory_format) -> None:
    norm = group_norm(24)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    x = (maps(2, 24, 6, 5, layout=layout) + middle).detach().requires_grad_()
    expected, y = norm(x), group_normalised(norm, x)
    assert y.is_contiguous(memory_format=layout)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    of = (x, norm.weight, norm.bias)
    torch.testing.assert_close(gradients(y, *of), gradients(expected, *of), rtol=1e-3, atol=1e-3)


def test_group_normalised_of_one_value_is_the_bias() -> None:
    norm = group_norm(8)
    nn.init.normal_(norm.bias)
    y = group_normalised(norm, torch.full((1, 8, 2, 2), 3.0))
    torch.testing.assert_close(y, norm.bias.view(1, 8, 1, 1).expand_as(y), rtol=0, atol=1e-3)


@pytest.fixture
def gpu_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a compiler reads for a GPU, read for a CPU."""
    for module in (blocks, unet, vit):
        monkeypatch.setattr(module, "compiled_on_gpu", lambda _: torch.compiler.is_compiling())
    for decoder in (light, unet_decoder):
        monkeypatch.setattr(decoder, "resize", lambda x, size: resize_by_products(x, *size))
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [("unet", {"encoder": {"name": "unet", "filters": [8, 16]}}), ("light", {"decoder": {"name": "light"}})],
)
def test_compiled_for_a_gpu_all_maps_are_channels_last(gpu_form: None, kind: str, changes: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = build_segmenter(small(kind, **changes), 3, 32)
    x = torch.randn(2, 3, 32, 32)
    formats: list[bool] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        class Watch(torch.fx.Interpreter):
            def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
                if target is torch.conv2d:
                    formats.append(args[0].is_contiguous(memory_format=torch.channels_last))
                return super().call_function(target, args, kwargs)

        return lambda *given: Watch(graph).run(*given)

    compiled = torch.compile(network, backend=backend, fullgraph=True)(x)
    assert len(formats) > 5
    assert all(formats)
    for chart, expected in network(x).items():
        torch.testing.assert_close(compiled[chart], expected, rtol=1e-4, atol=1e-5)


def test_planes_filled_up_to_eights_change_nothing(gpu_form: None) -> None:
    block, x = conv_norm(5, 8, 3), maps(1, 5, 6, 6)
    y = torch.compile(block, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(y, block(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        gradients(y, x, block[0].weight), gradients(block(x), x, block[0].weight), rtol=1e-3, atol=1e-4
    )


def test_maps_are_brought_to_another_stride() -> None:
    x = torch.arange(32.0).reshape(1, 1, 4, 8)
    assert brought(x, 8, 8) is x
    means = [[(x[0, 0, 2 * row : 2 * row + 2, 2 * k : 2 * k + 2]).mean().item() for k in range(4)] for row in range(2)]
    torch.testing.assert_close(brought(x, 4, 8), torch.tensor([[means]]))
    assert brought(x, 8, 2).shape == (1, 1, 16, 32)


def test_published_decoders_use_maps_from_stride_4_on() -> None:
    assert coarse((1, 2, 4, 8, 16)) == [2, 3, 4]
    assert coarse((16, 16)) == [0, 1]
    assert coarse((1, 2)) == [0, 1]
