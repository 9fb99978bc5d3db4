"""Probes of a pretraining: the same on any number of ranks, at any ZeRO stage; the best weights by each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from safetensors.torch import load_file
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.metrics import f1_score, r2_score

from arcticseg import config
from arcticseg.data.order import generators
from arcticseg.data.select import open_set
from arcticseg.ice.strata import parts
from arcticseg.run import build
from arcticseg.run.config import RunConfig
from arcticseg.run.folder import weights_path
from shards import lists
from shards.build import build as build_shards
from shards.part import BuildConfig
from shards.simulate import simulate_archive
from tests.training import MAE, empty_config, lines, overrides, train

EVERY, STEPS, COUNT, PATCHES, SHRINKAGE = 2, 5, 12, 10, 0.05
HOOK = f"[{{name: probe, every: {EVERY}, samples: {COUNT}, patches: {PATCHES}, shrinkage: {SHRINKAGE}}}]"
SETTINGS = MAE | {"steps": STEPS, "hooks": HOOK, "engine.global_batch_size": 4}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One training scene, four validation scenes of four passes."""
    scenes, folder = tmp_path_factory.mktemp("scenes"), tmp_path_factory.mktemp("shards")
    simulate_archive(scenes, 5, 3, (500, 500))
    paths = sorted(scenes.glob("*.nc"))
    names = [path.stem for path in paths]
    cfg = BuildConfig(tile=32, factors=(4,), shard_bytes=1 << 20)
    build_shards(lists.assign(paths, {"train": names[:1], "val": names[1:]}), folder, cfg, report=lambda text: None)
    return folder


def probes(out: Path) -> dict[int, tuple[float, float]]:
    """Step -> SIC and SOD."""
    return {line["step"]: (line["probe_SIC"], line["probe_SOD"]) for line in lines(out, "scores")}


@pytest.mark.parametrize(("ranks", "stage"), [(2, 0), (2, 3)])
def test_ranks_and_zero_stages_change_nothing(shards: Path, tmp_path: Path, ranks: int, stage: int) -> None:
    alone, several = tmp_path / "alone", tmp_path / "several"
    train(empty_config(tmp_path), overrides(shards, alone, SETTINGS | {"engine.zero_stage": 0}))
    train(empty_config(tmp_path), overrides(shards, several, SETTINGS | {"engine.zero_stage": stage}), ranks)
    assert list(probes(alone)) == [0, 2, 4, 5]
    np.testing.assert_allclose(list(probes(several).values()), list(probes(alone).values()), atol=0.5)
    np.testing.assert_allclose(probes(several)[2][0], probes(alone)[2][0], atol=0.01)
    # A probe leaves the training as it was.
    bare = tmp_path / "bare"
    train(
        empty_config(tmp_path), overrides(shards, bare, SETTINGS | {"engine.zero_stage": stage, "hooks": "[]"}), ranks
    )
    losses = [[line["loss"] for line in lines(out, "train")] for out in (several, bare)]
    assert losses[0] == losses[1]


def test_scores_are_those_of_scikit_learn_and_the_best_weights_are_kept(shards: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    train(empty_config(tmp_path), overrides(shards, out, SETTINGS))
    by_step = probes(out)
    for place, chart in enumerate(("SIC", "SOD")):
        values = {step: scores[place] for step, scores in by_step.items()}
        best = weights_path(out, f"best-probe_{chart}")
        assert best.exists()
        last = load_file(weights_path(out, "last"))
        same = all(torch.equal(value, last[name]) for name, value in load_file(best).items())
        # That of step 0 counts for nothing, be it the best.
        assert same == (max(values.keys() - {0}, key=lambda step: values[step]) == STEPS)
    assert by_step[STEPS] == pytest.approx(expected(shards, out), abs=2e-3)


def expected(shards: Path, out: Path) -> tuple[float, float]:
    """R2 of SIC and F1 of SOD of the last weights, times 100, patch by patch."""
    cfg = config.build(RunConfig, config.read(out / "config.yaml"))
    sets = [open_set(str(shards))]
    model = build.build_model(cfg, 32)
    model.load_state_dict(load_file(weights_path(out, "last")))
    selection = build.selection_of(cfg, sets, "val", labelled=True).few(COUNT)
    segment = config.build(RunConfig, {"steps": 1, "data": {"shards": str(shards)}})
    share = build.share_of(cfg, build.Ranks(0, 0, 1, 1, torch.device("cpu")))
    from arcticseg.data.transforms import Assemble
    from arcticseg.data.validation import ValidationLoader

    reading = build._reader(segment, selection, 32, True)
    assemble = Assemble(cfg.data.names, cfg.data.valid_plane)
    facts = {name: scene for name, scene in sets[0].manifest.scenes.items() if name in selection.scenes}
    counts = {name: scene["counts"]["4"] for name, scene in facts.items()}
    second = set(parts(list(facts), 2, counts)[1])
    rows: list[tuple[np.ndarray, int, int, bool]] = []
    for batch, n in ValidationLoader(*reading, share):
        inputs = assemble(batch)
        with torch.no_grad():
            maps = model.encoder(inputs.x)[-1]
        for i in range(n):
            number = int(inputs.place[i])
            (random,) = generators("probe", 0, ends=[number])
            for patch in random.permutation(16)[:PATCHES]:
                row, column = divmod(int(patch), 4)
                cells = inputs.labels[i, :2, row * 8 : row * 8 + 8, column * 8 : column * 8 + 8].flatten(1).numpy()
                labelled = [cell[cell != 255] for cell in cells]
                classes = [np.bincount(own).argmax() if len(own) >= 32 else 255 for own in labelled]
                scene = selection.scenes[selection.scene[number]]
                rows.append((maps[i, :, row, column].double().numpy(), classes[0], classes[1], scene in second))
    features, half = np.stack([row[0] for row in rows]), np.array([row[3] for row in rows])
    truths: dict[int, list[np.ndarray]] = {1: [], 2: []}
    guesses: dict[int, list[np.ndarray]] = {1: [], 2: []}
    for place in (1, 2):
        labels = np.array([row[place] for row in rows])
        for fitted in (half, ~half):
            x, y = features[fitted & (labels != 255)], labels[fitted & (labels != 255)]
            other = ~fitted & (labels != 255)
            mapping = (
                Ridge(alpha=SHRINKAGE * len(x) * x.var(axis=0).mean())
                if place == 1
                else LinearDiscriminantAnalysis(solver="lsqr", shrinkage=SHRINKAGE)
            )
            guesses[place].append(mapping.fit(x, y).predict(features[other]))
            truths[place].append(labels[other])
    truth, guess = ({k: np.concatenate(v) for k, v in values.items()} for values in (truths, guesses))
    assert len(set(truth[2])) > 2, json.dumps(truth[2].tolist())
    return 100 * r2_score(truth[1], guess[1]), 100 * f1_score(truth[2], guess[2], average="weighted")
