"""Numbers that are not finite are seen wherever an engine keeps them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from torch import nn

from arcticseg.engine.weights import check_engine, check_finite
from arcticseg.errors import ArcticSegError

CPU = torch.device("cpu")


def engine_of(wrapped: bool) -> Any:
    """A network of weights and buffers and an optimiser that has stepped; `wrapped`: within another, as by ZeRO."""
    network = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    optimizer: Any = torch.optim.AdamW(network.parameters())
    network(torch.randn(4, 3)).square().sum().backward()
    optimizer.step()
    return SimpleNamespace(module=network, optimizer=SimpleNamespace(optimizer=optimizer) if wrapped else optimizer)


def places(engine: Any) -> dict[str, Any]:
    """Where an engine keeps numbers."""
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    weight = engine.module[0].weight
    return {
        "weight": weight.data,
        "buffer": engine.module[1].running_var,
        "moment": optimizer.state[weight]["exp_avg_sq"],
    }


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("place", ["weight", "buffer", "moment"])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_a_bad_number_is_seen(wrapped: bool, place: str, number: float) -> None:
    engine = engine_of(wrapped)
    check_engine(engine, 7)
    places(engine)[place].view(-1)[-1] = number
    with pytest.raises(ArcticSegError, match=r"step 7.*optim\.lr"):
        check_engine(engine, 7)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_each_precision_is_looked_at(dtype: Any) -> None:
    values = torch.ones(2, 5, dtype=dtype)
    check_finite([values, torch.tensor([1, 2]), torch.ones(0), torch.finfo(dtype).max * values, 3.0], "all", 1, CPU)
    values[1, 2] = float("nan")
    with pytest.raises(ArcticSegError, match=r"all.*step 1"):
        check_finite([values.t()], "all", 1, CPU)
