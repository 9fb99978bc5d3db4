"""BatchNorm whose statistics stay float32."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.models.batch_norm import batch_norm, caution, statistics, steady
from arcticseg.models.encoders.features import build_features


def test_the_numbers_are_torchs_in_training_and_after() -> None:
    torch.manual_seed(0)
    ours, theirs = batch_norm(4), nn.BatchNorm2d(4)
    for _ in range(3):
        x = 2 + 3 * torch.randn(5, 4, 6, 6)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        torch.testing.assert_close(ours(a), theirs(b))
        ours(a).square().sum().backward()
        theirs(b).square().sum().backward()
        torch.testing.assert_close(a.grad, b.grad)
    for mine, other in zip(statistics(ours), statistics(theirs), strict=True):
        torch.testing.assert_close(mine, other)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x))


def test_statistics_stay_float32_where_weights_do_not() -> None:
    torch.manual_seed(0)
    norm = batch_norm(2)
    mean = torch.tensor([1 + 2**-12, 3.0])
    norm.running_mean.copy_(mean)
    norm.bfloat16()
    assert (norm.weight.dtype, norm.running_mean.dtype, norm.running_var.dtype) == (
        torch.bfloat16,
        torch.float32,
        torch.float32,
    )
    assert torch.equal(norm.running_mean, mean)
    # A mean that bf16 would not move: a tenth of a hundredth of it.
    x = torch.full((2, 2, 4, 4), 1.0078125, dtype=torch.bfloat16)
    out = norm(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(norm.running_mean, 0.9 * mean + 0.1 * 1.0078125)


def test_a_network_of_timm_trains_in_bf16_with_its_activations() -> None:
    torch.manual_seed(0)
    network = build_features(3, 64, "timm/mobilenetv3_small_050")
    plain = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    assert plain
    x = torch.randn(2, 3, 64, 64)
    before = [y.detach() for y in network.eval()(x)]
    network.bfloat16().train()
    maps = network(x.bfloat16())
    sum(y.float().square().mean() for y in maps).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
    assert all(value.dtype == torch.float32 for value in statistics(network))
    assert len(before) == 4


def test_steady_changes_no_numbers_of_a_network_of_timm() -> None:
    from arcticseg.models.encoders.features import timm

    torch.manual_seed(0)
    theirs = timm.create_model("mobilenetv3_small_050", features_only=True).train()
    ours = timm.create_model("mobilenetv3_small_050", features_only=True).train()
    ours.load_state_dict(theirs.state_dict())
    steady(ours)
    x = torch.randn(2, 3, 64, 64)
    for a, b in zip(ours(x), theirs(x), strict=True):
        torch.testing.assert_close(a, b)
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_a_network_with_batch_norm_comes_with_a_word() -> None:
    assert caution(nn.Sequential(nn.Conv2d(1, 1, 1), nn.GroupNorm(1, 1))) is None
    said = caution(nn.Sequential(batch_norm(3), nn.BatchNorm2d(3)))
    assert said is not None
    assert said.startswith("the network has 2 BatchNorm layers")
