"""Several networks that draw one chart."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import netCDF4
import numpy as np
import pytest

torch = pytest.importorskip("torch")
from drawing import Pointwise, layers_of, predictor, write_weights
from scipy.ndimage import map_coordinates
from torch import Tensor, nn

from arcticseg.errors import ConfigError
from arcticseg.ice.scenes.open import open_scene
from arcticseg.ice.sigrid import N_CLASSES
from arcticseg.models.heads import Classification, Head, Ordinal
from arcticseg.models.segmenter import Segmenter
from arcticseg.products.ensemble import Ensemble, ensemble, load_ensemble
from arcticseg.products.predictor import Predictor
from arcticseg.products.product import Network
from launchers import cli
from tests import scenes

LAYERS = layers_of(np.random.default_rng(1).normal(-14.5, 5.6, (60, 44)), 4)


class Some(Segmenter):
    """Charts of some heads, with logits that grow with HH."""

    def __init__(self, heads: dict[str, Head], slope: float = 1.0) -> None:
        encoder = nn.Identity()
        encoder.stride = 1  # type: ignore[assignment]
        super().__init__(encoder, nn.Identity(), heads)
        self.slope = slope

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {
            chart: torch.cat([x[:, :1] * self.slope * number for number in range(N_CLASSES[chart])], dim=1)
            for chart in self.charts
        }


def member(name: str, charts: tuple[str, ...], slope: float = 1.0, factor: int = 4) -> Predictor:
    heads: dict[str, Head] = {chart: Classification(1, chart) for chart in charts}
    network = Network(name, factor, simulated=slope < 0, charts=charts)
    return replace(predictor(16, factor), network=network, model=Some(heads, slope))


def test_a_network_with_itself_is_the_network() -> None:
    drawer = predictor(16, 4)
    alone = drawer.fields(LAYERS)
    for several in (Ensemble((drawer, drawer)), ensemble(drawer)):
        fields = several.fields({4: LAYERS})
        assert fields.keys() == alone.keys()
        for chart, field in fields.items():
            np.testing.assert_array_equal(field, alone[chart])
    three = Ensemble((drawer,) * 3).fields({4: LAYERS}, tta=("flips", "turns"))
    for chart, field in three.items():
        np.testing.assert_allclose(field, alone[chart], atol=1e-6)


def test_a_chart_is_the_mean_of_those_that_draw_it() -> None:
    members = (member("a", ("SIC", "SOD"), 0.5), member("b", ("SOD",), -1.0), member("c", ("SOD", "FLOE"), 2.0))
    both = Ensemble(members)
    assert both.network == Network("a + b + c", 4, simulated=True, charts=("SIC", "SOD", "FLOE"))
    assert list(both.classes) == ["SIC", "SOD", "FLOE"]
    apart = [own.fields(LAYERS) for own in members]
    fields = both.fields({4: LAYERS})
    np.testing.assert_allclose(fields["SOD"], np.mean([own["SOD"] for own in apart], axis=0), atol=1e-6)
    np.testing.assert_array_equal(fields["SIC"], apart[0]["SIC"])
    np.testing.assert_array_equal(fields["FLOE"], apart[2]["FLOE"])


def test_members_of_several_factors_meet_on_the_finest_grid() -> None:
    coarse = layers_of(np.random.default_rng(2).normal(-14.5, 5.6, (20, 15)), 12)
    fine, other = member("fine", ("SOD",), 0.7), member("coarse", ("SOD",), 1.3, factor=12)
    both = Ensemble((other, fine))
    assert both.network.factor == 4
    apart = fine.fields(LAYERS)["SOD"], other.fields(coarse)["SOD"]
    rows, columns = ((np.arange(n) + 0.5) * 4 / 12 - 0.5 for n in LAYERS.shape)
    at = np.meshgrid(rows, columns, indexing="ij")
    raised = np.stack([map_coordinates(plane, at, order=1, mode="nearest") for plane in apart[1]])
    np.testing.assert_allclose(both.fields({4: LAYERS, 12: coarse})["SOD"], (apart[0] + raised) / 2, atol=1e-5)


def test_fields_of_different_kinds_have_no_mean() -> None:
    ordinal = member("b", ("SOD",))
    ordinal = replace(ordinal, model=Some({"SOD": Ordinal(1, "SOD")}))
    with pytest.raises(ConfigError, match=r"SOD is drawn a by Classification and b by Ordinal, which have no mean"):
        Ensemble((member("a", ("SIC", "SOD")), ordinal))


def test_progress_is_of_all_members() -> None:
    seen: list[tuple[int, int]] = []
    Ensemble((predictor(16, 4), predictor(32, 4))).fields({4: LAYERS}, 0, 4, lambda *now: seen.append(now))
    done = [now[0] for now in seen]
    # 4 x 3 and 2 x 2 windows.
    assert done == sorted(done)
    assert seen[-1] == (16, 16)
    assert {total for _, total in seen} == {16}


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    for seed in range(2):
        write_weights(tmp_path / f"run_{seed}.safetensors", seed)
    return [tmp_path / f"run_{seed}.safetensors" for seed in range(2)]


def test_runs_are_loaded_and_their_checksums_kept(runs: list[Path]) -> None:
    both, one = load_ensemble(runs, device="cpu"), load_ensemble(runs[:1], device="cpu")
    assert isinstance(both.weights, list)
    assert one.weights == both.weights[0] != both.weights[1]
    assert both.paths == f"{runs[0]}, {runs[1]}"
    assert both.overlaps(None) == [8, 8]
    assert one.overlaps(3) == 3


def test_a_scene_is_read_at_the_factors_of_all(runs: list[Path], tmp_path: Path) -> None:
    path = scenes.write_raw(tmp_path / f"{scenes.RAW_NAME}.nc", lines=200, samples=180, chart=False)
    one, other = load_ensemble(runs[:1], device="cpu"), load_ensemble(runs[1:], 6, "cpu")
    both = Ensemble((*one.members, *other.members))
    with open_scene(path) as scene:
        assert set(both.read(scene)) == {2, 4, 6}
        by_factor = both.read(scene, tta=("scales",))
        assert set(by_factor) == {2, 3, 4, 5, 6, 7}
        fields = both.fields(by_factor, tta=("scales", "flips"))
    assert {chart: field.shape[1:] for chart, field in fields.items()} == dict.fromkeys(fields, (50, 45))
    np.testing.assert_allclose(fields["SOD"].sum(0), 1, atol=1e-4)


def test_whole_scenes_are_for_convolutional_networks(runs: list[Path], tmp_path: Path) -> None:
    both = load_ensemble(runs, device="cpu")
    whole = both.fields({4: LAYERS}, whole=True)
    # As the networks say it of the scene, filled up to a square.
    expected = []
    for own in both.members:
        square = layers_of(np.full((60, 60), np.nan), 4)
        square.sar["hh"][:, :44] = LAYERS.sar["hh"]
        ((_, batch),) = own.tiles(square, 60, 0, 1)
        with torch.inference_mode():
            output = own.model(own.assemble(batch).seen)["SOD"]
        expected.append(output.softmax(1)[0, :, :, :44].numpy())
    np.testing.assert_allclose(whole["SOD"], np.mean(expected, axis=0), atol=1e-5)

    class Attention(nn.Identity):
        pass

    model = Pointwise()
    model.encoder.attend = Attention()
    vit = replace(predictor(16, 4), model=model, encoder="vit_base_patch16_224")
    with pytest.raises(ConfigError, match=r"--whole takes convolutional.*test \(vit_base_patch16_224\) attends"):
        vit.fields(LAYERS, None, 8, lambda done, total: None, whole=True)


def test_commands_take_several_runs(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scene = scenes.write_raw(tmp_path / "scenes" / f"{scenes.RAW_NAME}.nc", lines=200, samples=180)
    out = tmp_path / "charts"
    common = ["predict", str(runs[0]), str(scene), "--out", str(out), "--products", "netcdf", "--with", str(runs[1])]
    assert cli.main([*common, "--tta", "flips"]) == 0
    with netCDF4.Dataset(out / f"{scene.stem}.nc") as file:
        assert "run_0 + run_1" in file.source
    (record,) = (out / ".made").glob("*.record")
    made = json.loads(record.read_text())["made_with"]
    assert made["weights"] == load_ensemble(runs, device="cpu").weights
    assert made["tta"] == ["flips"]
    capsys.readouterr()
    assert cli.main([*common, "--tta", "flips"]) == 0
    assert "1 of 1 scenes were finished before" in capsys.readouterr().err
    assert cli.main(common) == 0
    assert "finished before" not in capsys.readouterr().err
    assert cli.main([*common, "--tta", "mirror"]) == 2

    assert cli.main(["evaluate", str(runs[0]), str(scene), "--with", str(runs[1])]) == 2
    assert "--out" in capsys.readouterr().err
    scored = tmp_path / "scored"
    several = ["--with", str(runs[1]), "--whole", "--no-maps", "--no-products", "--out", str(scored)]
    assert cli.main(["evaluate", str(runs[0]), str(scene), *several]) == 0
    evaluation = json.loads((scored / "evaluation.json").read_text())
    assert (evaluation["name"], evaluation["weights"]) == ("run_0 + run_1", f"{runs[0]}, {runs[1]}")
