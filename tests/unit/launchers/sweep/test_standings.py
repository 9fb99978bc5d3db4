"""Results of a study: read from run folders, written as table and files."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

from arcticseg.run.config import RunConfig
from launchers.sweep import standings
from launchers.sweep.study import Resources, Trial


def trial(out: Path, name: str, share: float, phase: str = "finetune", lines: list[dict] | None = None) -> Trial:
    folder = out / phase / f"{name}-{share}"
    folder.mkdir(parents=True)
    if lines is not None:
        (folder / "config.yaml").write_text("steps: 3\n")
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    grid = {"data.label_fraction": share} if phase == "finetune" else {}
    return Trial(phase, folder.name, name, grid, None, RunConfig(steps=3, out=str(folder)), Resources())  # type: ignore[arg-type]


def validation(step: int, combined: float | None) -> dict:
    return {"step": step, "kind": "validation", "SIC": 10.0 + step, "SOD": 50.123, "FLOE": None, "combined": combined}


def test_best_validation_is_by_combined_score(tmp_path: Path) -> None:
    lines = [validation(1, 30.0), {"step": 2, "kind": "train", "loss": 1.0}, validation(2, 41.5), validation(3, 40.0)]
    standing = standings.standing(trial(tmp_path, "vit", 0.2, lines=lines), "finished")
    assert (standing.step, standing.scores) == (2, {"SIC": 12.0, "SOD": 50.123, "FLOE": None, "combined": 41.5})


def test_runs_without_a_score_have_none(tmp_path: Path) -> None:
    assert standings.standing(trial(tmp_path, "a", 1.0), "open").step is None
    assert standings.standing(trial(tmp_path, "b", 1.0, lines=[validation(1, None)]), "finished").scores == {}


def test_files_and_table_say_the_same(tmp_path: Path) -> None:
    mae = trial(tmp_path, "mae", 1.0, "pretrain", [{"step": 4, "kind": "validation", "reconstruction": 0.25}])
    good = trial(tmp_path, "vit", 0.2, lines=[validation(5, 41.5)])
    bad = trial(tmp_path, "unet", 0.2)
    study = [
        standings.standing(mae, "finished"),
        standings.standing(good, "finished"),
        standings.standing(bad, "failed", "no space"),
    ]
    standings.write(tmp_path, study, simulated=True)
    with open(tmp_path / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert [(row["model"], row["data.label_fraction"], row["combined"], row["status"]) for row in rows] == [
        ("vit", "0.2", "41.5", "finished"),
        ("unet", "0.2", "", "failed"),
    ]
    assert rows[1]["reason"] == "no space"
    assert rows[0]["run"] == "finetune/vit-0.2"
    kept = json.loads((tmp_path / "results.json").read_text())
    assert kept["simulated"] is True
    assert [row["scores"].get("combined") for row in kept["trials"]] == [None, 41.5, None]
    assert kept["trials"][0]["scores"] == {"reconstruction": 0.25}

    table = standings.table(study, simulated=True)
    assert "pretraining mae-1.0: finished, reconstruction 0.250" in table
    assert any(
        line.split() == ["vit", "0.2", "15.00", "50.12", "-", "41.50", "finished"] for line in table.splitlines()
    )
    assert "SIMULATED" in table
    assert "SIMULATED" not in standings.table(study, simulated=False)


def test_a_study_that_went_well_needs_no_status_column(tmp_path: Path) -> None:
    study = [standings.standing(trial(tmp_path, "vit", 0.2, lines=[validation(5, 41.5)]), "finished")]
    head = standings.table(study, False).splitlines()[0]
    assert head.split() == ["model", "label_fraction", "SIC", "SOD", "FLOE", "combined"]


def test_seeds_are_averaged_in_the_table_only(tmp_path: Path) -> None:
    trials = []
    for seed, combined in enumerate((40.0, 43.0, 49.0)):
        made = trial(tmp_path / str(seed), "vit", 0.2, lines=[validation(5, combined)])
        trials.append(dataclasses.replace(made, grid={**made.grid, "seed": seed}))
    study = [standings.standing(made, "finished") for made in trials]
    # By hand: mean 44, deviations -4, -1, 5, variance 42 / 2.
    lines = standings.table(study, simulated=True).splitlines()
    assert lines[0].split() == ["model", "label_fraction", "SIC", "SOD", "FLOE", "combined"]
    assert lines[2].split() == ["vit", "0.2", "15.00", "±", "0.00", "50.12", "±", "0.00", "-", "44.00", "±", "4.58"]
    assert lines[-1] == "Mean and standard deviation over seeds."
    standings.write(tmp_path, [standings.standing(made, "finished") for made in trials], simulated=True)
    with open(tmp_path / "results.csv") as file:
        assert [(row["seed"], row["combined"]) for row in csv.DictReader(file)] == [
            ("0", "40.0"),
            ("1", "43.0"),
            ("2", "49.0"),
        ]


def test_only_what_the_scheduler_stopped_is_kept_stopped(tmp_path: Path) -> None:
    assert standings.stopped_before(tmp_path) == set()
    poor, broken = trial(tmp_path, "a", 0.2), trial(tmp_path, "b", 0.2)
    study = [standings.standing(poor, "stopped"), standings.standing(broken, "failed", "x")]
    standings.write(tmp_path, study, simulated=False)
    assert standings.stopped_before(tmp_path) == {"finetune/a-0.2"}
