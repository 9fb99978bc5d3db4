"""`arcticseg reconstruct`: units, normalisation undone, what is shown where there is no data, and refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from drawing import layers_of, write_weights
from safetensors.torch import save_file
from torch import Tensor, nn

from arcticseg import config
from arcticseg.data.transforms import Assemble
from arcticseg.errors import ConfigError
from arcticseg.ice.channels import CHANNELS
from arcticseg.models.build import build_autoencoder
from arcticseg.models.config import ModelConfig
from arcticseg.models.mae import patchify, removed
from arcticseg.pictures.colours import ALARM, MASKED
from arcticseg.products.reconstruction import Reconstructor, load_reconstructor
from arcticseg.tasks.pretrain import Pretrain
from launchers import cli
from tests import scenes

HH, HV = "nersc_sar_primary", "nersc_sar_secondary"
TILE, PATCH = 16, 4
MODEL = {"encoder": {"name": "vit_tiny_patch16_224", "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2}}
PRETRAIN = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2, "mask_ratio": 0.5}


class Knows(nn.Module):
    """Predicts each patch as it is, normalised if that is asked for, plus `more`."""

    patch = PATCH

    def __init__(self, normalise: bool, more: float = 0.0) -> None:
        super().__init__()
        self.normalise, self.more = normalise, more

    def forward(self, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        target = patchify(x[:, :1], PATCH)
        if self.normalise:
            target = (target - target.mean(2, keepdim=True)) / (target.var(2, keepdim=True) + 1e-6).sqrt()
        return target + self.more, removed(kept, target.shape[1])


def reconstructor(normalise: bool, more: float = 0.0, seed: int = 3) -> Reconstructor:
    return Reconstructor(
        name="test",
        model=Knows(normalise, more),  # type: ignore[arg-type]
        task=Pretrain([0], PATCH, 0.5, seed, normalise),
        assemble=Assemble((HH, HV), statistics={HH: (-14.0, 4.0)}),
        channels=(HH, HV),
        targets=(HH,),
        tile=TILE,
        factor=4,
        simulated=False,
        device=torch.device("cpu"),
    )


def image(rows: int = 41, columns: int = 37) -> np.ndarray:
    return np.random.default_rng(0).normal(-14.5, 3, (rows, columns))


@pytest.mark.parametrize("normalise", [False, True])
def test_a_network_that_is_right_gives_the_scene_back_in_decibels(normalise: bool) -> None:
    hh = image()
    layers, drawer = layers_of(hh, 4), reconstructor(normalise)
    corners = drawer.windows(layers)
    assert len(corners) == 9
    for part in drawer.reconstruct(layers, corners):
        height, width = part.removed.shape
        real = hh[part.row : part.row + height, part.column : part.column + width]
        # Backscatter is stored in steps of 0.05 dB.
        np.testing.assert_allclose(part.image[0], real, atol=0.026)
        np.testing.assert_allclose(part.painted[HH], real, atol=0.027)
        assert np.isnan(part.image[1]).all()
        assert set(part.painted) == {HH}
        assert part.removed.mean() == 0.5


def test_an_error_is_undone_with_the_spread_of_the_patch_or_of_the_channel() -> None:
    layers = layers_of(image(TILE, TILE), 4)
    for normalise in (False, True):
        (part,) = reconstructor(normalise, more=1.0).reconstruct(layers, [(0, 0)])
        moved = part.painted[HH] - part.image[0]
        assert not moved[~part.removed].any()
        for row in range(0, TILE, PATCH):
            for column in range(0, TILE, PATCH):
                window = np.s_[row : row + PATCH, column : column + PATCH]
                if part.removed[window].all():
                    expected = part.image[0][window].std(ddof=1) if normalise else 4.0
                    np.testing.assert_allclose(moved[window], expected, rtol=1e-3)


def test_where_there_is_no_data_nothing_is_painted() -> None:
    hh = image(TILE, 24)
    hh[:6, :9] = np.nan
    part = next(iter(reconstructor(False, 1.0).reconstruct(layers_of(hh, 4), [(0, 0), (0, 8)])))
    missing = np.isnan(hh[:, :TILE])
    assert np.isnan(part.image[0][missing]).all()
    assert np.isnan(part.painted[HH][missing]).all()
    assert np.isfinite(part.painted[HH][~missing]).all()


def test_removed_patches_depend_on_the_seed_and_the_window_alone() -> None:
    layers = layers_of(image(), 4)
    drawer = reconstructor(True)
    both = [part.removed for part in drawer.reconstruct(layers, [(0, 0), (16, 16)])]
    (alone,) = reconstructor(True).reconstruct(layers, [(16, 16)])
    assert np.array_equal(alone.removed, both[1])
    assert not np.array_equal(both[0], both[1])
    other = replace(drawer, task=Pretrain([0], PATCH, 0.5, 4, True))
    assert not np.array_equal(next(iter(other.reconstruct(layers, [(0, 0)]))).removed, both[0])


def write_pretraining(path: Path, pretrain: dict[str, Any] | None = None, targets: int = 2) -> Path:
    """Weights of a small masked autoencoder of HH, HV and AMSR2, with what a run writes beside them."""
    torch.manual_seed(0)
    sizes = {key: PRETRAIN[key] for key in ("decoder_dim", "decoder_depth", "decoder_heads")}
    network = build_autoencoder(config.build(ModelConfig, MODEL), 16, 32, targets, **sizes)
    metadata = {
        "config": {
            "task": "pretrain",
            "model": MODEL,
            "data": {"channels": ["hh", "hv", "amsr2"], "valid_plane": False},
            "pretrain": PRETRAIN | (pretrain or {"normalise_targets": True}),
        },
        "tile": 32,
        "factors": [4],
        "simulated": True,
        "statistics": {},
    }
    save_file(network.state_dict(), path, {key: json.dumps(value) for key, value in metadata.items()})
    return path


def reconstruct(*arguments: object) -> int:
    return cli.main(["reconstruct", *map(str, arguments)])


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pretraining(tmp_path_factory.mktemp("weights") / "mae.safetensors")


def test_a_stored_pretraining_is_undone_as_it_was_trained(weights: Path, tmp_path: Path) -> None:
    assert load_reconstructor(weights).task.normalise
    # What an earlier version stored does not say so.
    old = write_pretraining(tmp_path / "old.safetensors", {"targets": ["hh", "hv"]})
    assert not load_reconstructor(old).task.normalise


def test_pictures_and_numbers_of_some_windows(
    weights: Path, tiny_archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = min(tiny_archive.glob("*.nc"))
    for out in ("a", "b"):
        assert reconstruct(weights, scene, "--out", tmp_path / out, "--tiles", 2, "--netcdf", "--seed", 5) == 0
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(files) == 4
    assert sorted(line.rpartition("/")[2] for line in capsys.readouterr().out.splitlines()[:4]) == files
    for name in files:
        assert name.startswith(f"{scene.stem}.reconstruction.row")
        if name.endswith(".png"):
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
            with Image.open(tmp_path / "a" / name) as picture:
                assert picture.info["Description"].startswith("SIMULATED SCENES")
                pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
            for colour in (MASKED, tuple(bytes.fromhex(ALARM[1:]))):
                assert (pixels == colour).all(1).sum() > 1000
            continue
        with netCDF4.Dataset(tmp_path / "a" / name) as numbers:
            assert numbers.simulated.startswith("simulated")
            assert numbers.variables.keys() == {
                "removed",
                HH,
                HV,
                f"{HH}_reconstructed",
                f"{HV}_reconstructed",
                *(channel for channel, facts in CHANNELS.items() if facts.group == "amsr2"),
            }
            assert (numbers[HH].units, numbers["btemp_6_9h"].units) == ("dB", "K")
            seen = numbers["removed"][:] == 0
            values, painted = (np.ma.filled(numbers[key][:], np.nan) for key in (HH, f"{HH}_reconstructed"))
            np.testing.assert_allclose(painted[seen], values[seen], rtol=1e-5)
            assert seen.mean() == 0.5
            assert 150 < np.nanmean(numbers["btemp_6_9h"][:]) < 300


def test_a_whole_scene_by_windows(weights: Path, tiny_archive: Path, tmp_path: Path) -> None:
    scene = min(tiny_archive.glob("*.nc"))
    assert reconstruct(weights, scene, "--out", tmp_path, "--whole", "--netcdf") == 0
    (path,) = tmp_path.glob("*.nc")
    assert path.name == f"{scene.stem}.reconstruction.nc"
    with netCDF4.Dataset(path) as numbers:
        assert numbers[HH].shape == (125, 125)
        painted, values = (np.ma.filled(numbers[key][:], np.nan) for key in (f"{HH}_reconstructed", HH))
        assert np.isfinite(painted[np.isfinite(values)]).mean() > 0.99


def test_what_cannot_be_reconstructed_is_refused(
    weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_weights(tmp_path / "unet.safetensors")
    scene = scenes.write_raw(tmp_path / "a.nc", lines=160, samples=160, chart=False)
    with pytest.raises(ConfigError, match="draws charts and reconstructs nothing"):
        load_reconstructor(tmp_path / "unet.safetensors")
    assert reconstruct(tmp_path / "unet.safetensors", scene, "--out", tmp_path) == 2
    assert reconstruct(weights, scene, "--out", tmp_path, "--tiles", 0) == 2
    bare = scenes.raw(160, 160, chart=False)
    for name in scenes.AMSR2:
        del bare[name]
    lacking = scenes.write(tmp_path / "bare.nc", bare)
    targets = {"targets": ["amsr2"], "normalise_targets": True}
    passive = write_pretraining(tmp_path / "passive.safetensors", targets, targets=14)
    capsys.readouterr()
    assert reconstruct(passive, lacking, "--out", tmp_path) == 2
    assert "has no value of btemp_6_9h" in capsys.readouterr().err
    # A channel that is no target may be missing, which is said.
    assert reconstruct(weights, lacking, "--out", tmp_path, "--tiles", 1) == 0
    assert "the network sees none" in capsys.readouterr().err
