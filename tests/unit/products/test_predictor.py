from __future__ import annotations

import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from drawing import Pointwise, layers_of, predictor, write_weights

from arcticseg.data.config import DataConfig
from arcticseg.data.transforms import Assemble
from arcticseg.errors import ConfigError, SceneError
from arcticseg.ice.scenes.open import open_scene
from arcticseg.products.charts import fields_to_charts
from arcticseg.products.ensemble import ensemble
from arcticseg.products.predictor import load_predictor
from tests import scenes


@pytest.mark.parametrize("overlap", [0, 4])
def test_overlapping_windows_of_a_pointwise_network_give_the_field_itself(overlap: int) -> None:
    hh = np.random.default_rng(0).normal(-14.5, 5.6, (41, 37))
    drawer = predictor(16, 4)
    fields = drawer.fields(layers_of(hh, 4), overlap, batch_size=3)
    mean, std = drawer.assemble.statistics["nersc_sar_primary"]
    # Backscatter is stored in steps of 0.05 dB.
    np.testing.assert_allclose(fields["SIC"][0], 5 + (hh - mean) / std, atol=0.026 / std + 1e-5)
    np.testing.assert_allclose(fields["SOD"].sum(0), 1, atol=1e-5)


def test_a_scene_of_another_noise_removal_than_the_networks_is_warned_of_and_noted(tmp_path: Path) -> None:
    drawer = replace(predictor(16, 4), learnt_denoising=("nersc",))
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc", lines=160, samples=160, chart=False)
    with open_scene(path) as scene, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ensemble(drawer).read(scene)
        assert not [note for note in scene.notes if "noise" in note]
        scene.denoising = "esa"
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(UserWarning, match=r"its thermal noise removal is ESA's.*NERSC's"):
            ensemble(drawer).read(scene)
        assert [note for note in scene.notes if "thermal noise removal is ESA's" in note]


def test_progress_counts_empty_windows_at_the_end() -> None:
    hh = np.full((16, 40), -10.0)
    hh[:, 20:] = np.nan
    seen: list[tuple[int, int]] = []
    predictor(16, 2).fields(layers_of(hh, 2), 0, batch_size=1, progress=lambda *now: seen.append(now))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_windows_without_data_are_left_out_and_stay_masked() -> None:
    hh = np.full((40, 40), -10.0)
    hh[:, 20:] = np.nan
    layers = layers_of(hh, 2)
    drawer = predictor(16, 2)
    charts = fields_to_charts(drawer.fields(layers), drawer.classes, 2, layers)
    assert (charts[:, :, 20:] == 255).all()
    assert (charts[:, :, :20] != 255).all()


@pytest.mark.parametrize(("number", "told"), [(np.nan, "NaN"), (np.inf, "infinite")])
@pytest.mark.parametrize("chart", ["SIC", "FLOE"])
def test_an_output_that_is_no_number_is_refused(
    number: float, told: str, chart: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawer = predictor(16, 4)
    forward = Pointwise.forward
    calls: list[int] = []

    def broken(self: Pointwise, x: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = forward(self, x)
        calls.append(len(x))
        if len(calls) == 2:
            outputs[chart][1, 0, 3, 3] = number
        return outputs

    monkeypatch.setattr(Pointwise, "forward", broken)
    with pytest.raises(SceneError, match=rf"scene: .*{chart} is {told} .*row 16, column 16;"):
        drawer.fields(layers_of(np.full((32, 48), -10.0), 4), 0, batch_size=3)


def test_missing_groups_are_those_of_the_network(tmp_path: Path) -> None:
    write_weights(tmp_path / "weights.safetensors")
    # The layers have no HV, and no distance map either, which the network does not see.
    assert load_predictor(tmp_path / "weights.safetensors").missing(layers_of(np.zeros((9, 9)), 4)) == ["hv"]


def test_a_network_sees_which_groups_a_scene_lacks() -> None:
    channels = ("hh", "hv", "amsr2", "season", "position", "spacing")
    data = DataConfig(channels=channels, missing_planes=True)
    drawer = replace(predictor(16, 4), assemble=Assemble.of(data))
    hh = np.full((16, 16), -10.0)
    hh[:, 12:] = np.nan
    layers = layers_of(hh, 4)
    assert drawer.missing(layers) == ["hv", "amsr2", "season"]
    assert drawer.missing(replace(layers, time="2020-02-03T04:05:06")) == ["hv", "amsr2"]
    ((_, batch),) = drawer.tiles(layers, 16, 0, 1)
    planes = dict(zip(data.planes, drawer.assemble(batch).seen[0].numpy(), strict=True))
    assert [name for name in planes if name.startswith("missing_")] == [f"missing_{group}" for group in channels]
    np.testing.assert_array_equal(planes["missing_hh"], np.isnan(hh))
    for group, expected in {"hv": 1, "amsr2": 1, "season": 1, "position": 0, "spacing": 0}.items():
        assert (planes[f"missing_{group}"] == expected).all(), group
    # Factor 4: 160 m, of which log2(160 / 40) is 2.
    np.testing.assert_allclose(planes["pixel_spacing"], (2 - 2.421229) / 0.729475, rtol=1e-5)


def test_a_network_is_loaded_with_what_it_needs(tmp_path: Path) -> None:
    path = tmp_path / "run" / "weights" / "last.safetensors"
    path.parent.mkdir(parents=True)
    write_weights(path)
    by_folder, by_file = load_predictor(tmp_path / "run"), load_predictor(path, factor=8)
    assert (by_folder.network.name, by_folder.network.factor) == ("run", 4)
    assert (by_file.network.name, by_file.network.factor) == ("last", 8)
    assert by_folder.network.simulated
    assert by_folder.assemble.channels == ("nersc_sar_primary", "nersc_sar_secondary")
    assert by_folder.assemble.statistics["nersc_sar_primary"] == (-14.0, 4.0)
    layers = layers_of(np.random.default_rng(0).normal(-14, 4, (40, 40)), 4)
    fields = by_folder.fields(layers)
    assert {chart: field.shape for chart, field in fields.items()} == {
        "SIC": (1, 40, 40),
        "SOD": (6, 40, 40),
        "FLOE": (7, 40, 40),
    }
    for chart, field in by_file.fields(layers).items():
        np.testing.assert_array_equal(field, fields[chart])


def test_a_pretraining_draws_no_charts(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "mae.safetensors"
    save_file(
        {"weight": torch.zeros(1)},
        path,
        {
            "config": '{"task": "pretrain", "data": {}, "model": {"encoder": {"name": "vit_base_patch16_224"}}}',
            **{"statistics": "{}", "tile": "64", "factors": "[2]", "simulated": "true"},
        },
    )
    with pytest.raises(ConfigError, match=r"mae\.safetensors.*task: segment"):
        load_predictor(path)


def test_prediction_loads_no_trainer() -> None:
    code = "import sys, arcticseg.products.write; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "arcticseg.products.predictor" in loaded
    others = ("arcticseg.engine", "arcticseg.data.loader", "arcticseg.data.ring", "deepspeed", "ray")
    assert [name for name in loaded if any(name == other or name.startswith(f"{other}.") for other in others)] == []
