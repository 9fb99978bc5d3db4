"""The recipes of docs/extending.md, followed to the letter: a decoder in the tree, and a module from outside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

from arcticseg.engine.checkpoint import Checkpoint
from tests.training import COMMON, lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "extending.md").read_text()


def blocks(section: str, language: str) -> list[str]:
    """The code blocks of a section of the page."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert text is not None
    return re.findall(rf"^```{language}\n(.*?)^```", text[1], re.MULTILINE | re.DOTALL)


def run(folder: Path, *arguments: object, path: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """An `arcticseg` command in a folder, with the packages below `path`."""
    environment = {**os.environ, "PYTHONPATH": str(path), "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "launchers.cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_decoder_is_a_new_file_and_an_entry(tmp_path: Path, tiny_shards: Path) -> None:
    for package in ("arcticseg", "configs", "launchers", "shards"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    module, entry = blocks("A decoder", "python")
    (tmp_path / "arcticseg/models/decoders/mean.py").write_text(module)
    table = tmp_path / "arcticseg/models/config/__init__.py"
    table.write_text(table.read_text().replace("def check_width", f"{entry}\n\ndef check_width", 1))
    command = blocks("A decoder", "bash")[0].split()
    assert command[:2] == ["arcticseg", "train"]
    checked = run(tmp_path, *command[1:], path=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert re.search(r"decoder: \{name: mean,.* channels: 32\}", checked.stdout)
    refused = run(tmp_path, *command[1:-1], "model.decoder.channels=7", path=tmp_path)
    assert refused.returncode == 2
    assert "model.decoder.channels" in refused.stderr
    small = ["model.encoder.filters=[4]", "model.decoder={name: mean, channels: 4}", "steps=1", "epochs=null"]
    settings = [f"{key}={value}" for key, value in COMMON.items()]
    sizes = ["engine.zero_stage=0", "engine.micro_batch_size=4", f"data.shards={tiny_shards}", "out=run"]
    trained = run(tmp_path, "train", "--config", "scratch_unet", *settings, *small, *sizes, path=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert "decoder.projections.0.0.weight" in load_file(tmp_path / "run/weights/last.safetensors")


def test_a_module_from_outside_trains_on_two_ranks_resumes_and_predicts(
    tmp_path: Path, tiny_shards: Path, tiny_archive: Path
) -> None:
    (tmp_path / "mine.py").write_text(blocks("From outside", "python")[0])
    (tmp_path / "mine.yaml").write_text(blocks("From outside", "yaml")[0])
    train, resume, predict = (line.split()[1:] for line in blocks("From outside", "bash")[0].splitlines())
    settings = [f"{key}={value}" for key, value in COMMON.items()] + [f"data.shards={tiny_shards}"]
    first = run(tmp_path, *train, *settings)
    assert first.returncode == 3, first.stderr
    stopped = lines(tmp_path / "runs/mine", "train")
    assert [line["step"] for line in stopped] == [1, 2]
    hooks = Checkpoint.open(next((tmp_path / "runs/mine/checkpoints").glob("step-*"))).tensors.below("hook/")
    assert "my_average/encoder.conv.weight" in hooks
    second = run(tmp_path, *resume, *settings)
    assert second.returncode == 0, second.stderr
    assert [line["step"] for line in lines(tmp_path / "runs/mine", "train")] == [1, 2, 3, 4]
    scene = sorted(tiny_archive.glob("*.nc"))[0]
    (tmp_path / "scenes").mkdir()
    (tmp_path / "scenes" / scene.name).symlink_to(scene)
    drawn = run(tmp_path, *predict)
    assert drawn.returncode == 0, drawn.stderr
    assert 0 <= float((tmp_path / f"charts/{scene.stem}.txt").read_text()) <= 1
    assert (tmp_path / f"charts/{scene.stem}.nc").is_file()
    # Weights come from others: what they need is imported only where the user says so.
    refused = run(tmp_path, "predict", "runs/mine", "scenes", "--out", "other")
    assert refused.returncode == 2
    assert re.search(r"model\.encoder\.name.*'strided'.*--import", refused.stderr)
