"""Test-time augmentation: what a network says of turned windows comes back where it belongs; vectors turn along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F
from drawing import Pointwise, layers_of, predictor
from torch import Tensor

from arcticseg.errors import ConfigError, SceneError
from arcticseg.ice.channels import CHANNELS, COARSE
from arcticseg.ice.layers import Layers
from arcticseg.products.tta import check_names, factors_of
from arcticseg.products.turns import PLAIN, Turn, turns_of

WIND = ("u10m_rotated", "v10m_rotated")
ASKED = [("flips",), ("turns",), ("flips", "turns")]


def windy(seed: int = 0, shape: tuple[int, int] = (90, 75)) -> Layers:
    """A scene at factor 10 whose wind differs from 2 km cell to cell."""
    random = np.random.default_rng(seed)
    layers = layers_of(random.normal(-14.5, 5.6, shape), 10)
    coarse = np.full((len(COARSE), 18, 15), 1.0, np.float32)
    for name in WIND:
        coarse[COARSE.index(name)] = random.normal(0, 8, coarse.shape[1:])
    return replace(layers, coarse=coarse)


def speaking(say: Callable[[Tensor], Tensor]) -> type[Pointwise]:
    """A network whose SIC is a function of its input."""

    class Saying(Pointwise):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return super().forward(x) | {"SIC": say(x)}

    return Saying


def wind(x: Tensor) -> tuple[Tensor, Tensor]:
    """Components in m/s along columns and rows, of input planes 1 and 2."""
    (u_mean, u_std), (v_mean, v_std) = ((CHANNELS[name].mean, CHANNELS[name].std) for name in WIND)
    return x[:, 1:2] * u_std + u_mean, x[:, 2:3] * v_std + v_mean


def along_the_wind(x: Tensor) -> Tensor:
    """Change of HH along the wind, by central differences; turning the image turns it, where the wind turns along."""
    hh = F.pad(x[:, :1], (1, 1, 1, 1), mode="replicate")
    across, down = hh[..., 1:-1, 2:] - hh[..., 1:-1, :-2], hh[..., 2:, 1:-1] - hh[..., :-2, 1:-1]
    u, v = wind(x)
    return u * across + v * down


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("overlap", [0, 5])
def test_a_network_that_returns_its_input_gives_its_input(asked: tuple[str, ...], overlap: int) -> None:
    layers = windy()
    drawer = replace(predictor(16, 10), model=speaking(lambda x: x[:, :1])())
    plain = drawer.fields(layers, overlap)
    turned = drawer.fields(layers, overlap, 8, lambda done, total: None, turns_of(asked))
    for chart, field in plain.items():
        np.testing.assert_allclose(turned[chart], field, atol=1e-6)


@pytest.mark.parametrize("asked", ASKED)
def test_the_wind_turns_along(asked: tuple[str, ...]) -> None:
    layers = windy()
    drawer = replace(predictor(16, 10, ("nersc_sar_primary", *WIND)), model=speaking(along_the_wind)())
    plain = drawer.fields(layers)["SIC"]
    turned = drawer.fields(layers, None, 8, lambda done, total: None, turns_of(asked))["SIC"]
    assert np.std(plain) > 1
    np.testing.assert_allclose(turned, plain, atol=1e-3)
    # A component by itself has no mean but 0 over views in which it turns along.
    alone = replace(drawer, model=speaking(lambda x: wind(x)[0])())
    assert np.std(alone.fields(layers)["SIC"]) > 1
    assert np.abs(alone.fields(layers, None, 8, lambda done, total: None, turns_of(asked))["SIC"]).max() < 1e-2


@pytest.mark.parametrize("turn", turns_of(("flips", "turns")))
def test_each_view_is_the_window_turned_by_numpy(turn: Turn) -> None:
    layers = windy()
    drawer = predictor(16, 10, ("nersc_sar_primary", *WIND))
    (_, batch), *_ = drawer.tiles(layers, 16, 0, 4)
    plain, seen = (drawer.assemble(part.of(batch)).seen for part in (Turn(), turn))

    def turned(plane: np.ndarray) -> np.ndarray:
        plane = plane.swapaxes(1, 2) if turn.transpose else plane
        plane = plane[:, ::-1] if turn.flip_rows else plane
        return plane[:, :, ::-1] if turn.flip_cols else plane

    np.testing.assert_allclose(seen[:, 0].numpy(), turned(plain[:, 0].numpy()), atol=1e-6)
    u, v = (part[:, 0].numpy() for part in wind(plain))
    if turn.transpose:
        u, v = v, u
    expected = (turned(u) * (-1 if turn.flip_cols else 1), turned(v) * (-1 if turn.flip_rows else 1))
    for own, other in zip(wind(seen), expected, strict=True):
        np.testing.assert_allclose(own[:, 0].numpy(), other, atol=1e-2)
    np.testing.assert_allclose(turn.back(seen[:, :1])[:, 0].numpy(), plain[:, 0].numpy(), atol=1e-6)


def test_views_are_asked_for_by_name() -> None:
    assert turns_of(()) == turns_of(("scales",)) == PLAIN
    sizes = [len(set(turns_of(asked))) for asked in ASKED]
    assert sizes == [4, 4, 8]
    assert set(turns_of(("flips",))) | set(turns_of(("turns",))) < set(turns_of(("flips", "turns")))
    assert check_names(["scales", "flips", "flips"]) == ("flips", "scales")
    with pytest.raises(ConfigError, match="--tta has 'mirror'; set some of flips, turns, scales"):
        check_names(["mirror"])
    assert [factors_of(factor, ("scales",)) for factor in (2, 5)] == [(2, 3), (5, 4, 6)]
    assert factors_of(5, ("flips",)) == (5,)


def test_probabilities_are_averaged_not_logits() -> None:
    """A network that says another thing of each view: its probabilities are averaged."""
    layers = layers_of(np.full((16, 16), -10.0), 4)
    said: list[Tensor] = []

    class Moody(Pointwise):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            torch.manual_seed(len(said))
            said.append(torch.randn(1, 6, 16, 16) * 5)
            return super().forward(x) | {"SOD": said[-1]}

    drawer = replace(predictor(16, 4), model=Moody())
    turns = turns_of(("flips",))
    field = drawer.fields(layers, 0, 8, lambda done, total: None, turns)["SOD"]
    expected = sum(turn.back(logits.softmax(1)) for turn, logits in zip(turns, said, strict=True)) / 4
    np.testing.assert_allclose(field, expected[0].numpy(), atol=1e-6)
    np.testing.assert_allclose(field.sum(0), 1, atol=1e-5)


def test_a_whole_scene_is_one_window() -> None:
    layers = windy(shape=(50, 37))
    seen: list[tuple[int, ...]] = []

    class Watching(Pointwise):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            seen.append(tuple(x.shape))
            return super().forward(x)

    drawer = replace(predictor(16, 10), model=Watching())
    assert drawer.windows(layers, whole=True) == 1
    progress: list[tuple[int, int]] = []
    whole = drawer.fields(layers, None, 8, lambda *now: progress.append(now), PLAIN, True)
    assert seen == [(1, 1, 50, 50)]
    assert progress[-1] == (1, 1)
    for chart, field in drawer.fields(layers).items():
        np.testing.assert_allclose(whole[chart], field, atol=1e-5)


def test_a_scene_larger_than_the_free_memory_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    drawer = predictor(16, 10)
    # One plane of input, 1 + 6 + 7 of outputs, 4 bytes each.
    needed = 90 * 90 * 15 * 4
    monkeypatch.setattr("arcticseg.products.predictor._free", lambda device: needed)
    drawer.fields(windy(), None, 8, lambda done, total: None, PLAIN, True)
    monkeypatch.setattr("arcticseg.products.predictor._free", lambda device: needed - 1)
    with pytest.raises(SceneError, match=r"90 x 90 pixels it takes more than 0\.0 GB, and cpu has 0\.0 GB free; leave"):
        drawer.fields(windy(), None, 8, lambda done, total: None, PLAIN, True)


def test_a_scene_that_does_not_fit_in_memory_is_told_with_its_size() -> None:
    class Large(Pointwise):
        def forward(self, x: Tensor) -> dict[str, Tensor]:
            raise torch.OutOfMemoryError

    drawer = replace(predictor(16, 10), model=Large())
    with pytest.raises(SceneError, match=r"1 windows of 90 x 90 pixels do not fit.*GB; set a smaller"):
        drawer.fields(windy(), None, 8, lambda done, total: None, PLAIN, True)
