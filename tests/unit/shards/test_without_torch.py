"""Everything before training runs where torch, DeepSpeed and Ray are not installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import shards
from arcticseg.data.manifest import read_manifest

ROOT = Path(shards.__file__).parents[1]

# Top-level code runs in the builder's worker processes, too.
SCRIPT = """
import importlib.abc, json, sys

ABSENT = {"torch", "torchvision", "timm", "deepspeed", "ray", "wandb", "safetensors"}

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())

if __name__ == "__main__":
    import contextlib, importlib, io
    from pathlib import Path
    from launchers.cli import main

    for name in json.loads(sys.argv[1]):
        importlib.import_module(name)
    out = Path(sys.argv[2])
    status = {"simulate": main(["simulate", str(out / "scenes"), "--n", "2", "--size", "500"])}
    build = ["shards", "build", str(out / "scenes"), "--out", str(out / "shards"), "--factors", "4", "--tile", "32"]
    status["build"] = main([*build, "--workers", "1"])
    status["check"] = main(["shards", "check", str(out / "shards"), "--workers", "0"])
    status["stats"] = main(["shards", "stats", str(out / "shards")])
    split = ["shards", "split", str(out / "scenes"), "--out", str(out / "lists"), "--val=0", "--test=0.5"]
    status["split"] = main(split)
    status["dry run"] = main(["train", "--config", "scratch_unet", "--dry-run"])
    with contextlib.redirect_stderr(io.StringIO()) as said:
        status["train"] = main(["train", "--config", "scratch_unet", f"data.shards={out / 'shards'}"])
    print(json.dumps({"status": status, "said": said.getvalue(), "loaded": sorted(ABSENT & set(sys.modules))}))
"""


def modules(*packages: str) -> list[str]:
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for package in packages
        for path in sorted((ROOT / package).glob("*.py"))
    ]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    folder = tmp_path_factory.mktemp("base")
    (folder / "script.py").write_text(SCRIPT)
    names = modules("shards", "shards/simulation", "arcticseg/ice", "arcticseg/ice/scenes", "launchers/verbs")
    names += modules("arcticseg/pictures")
    names += [
        f"arcticseg.data.{name}" for name in ("config", "sample", "tile", "manifest", "order", "select", "reader")
    ]
    names += [f"arcticseg.{room}.config" for room in ("models", "tasks", "engine", "run")]
    names += [f"arcticseg.{name}" for name in ("config", "files", "errors", "tracking")]
    done = subprocess.run(
        [sys.executable, str(folder / "script.py"), json.dumps(names), str(folder)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


def test_scenes_and_shards_are_made(outcome: tuple[Path, dict[str, object]]) -> None:
    folder, result = outcome
    status = result["status"]
    assert isinstance(status, dict)
    assert {verb for verb, code in status.items() if code} == {"train"}
    assert result["loaded"] == []
    manifest = read_manifest(folder / "shards")
    assert len(manifest.scenes) == 2
    assert manifest.simulated
    assert (folder / "lists" / "test.txt").is_file()


def test_training_says_what_to_install(outcome: tuple[Path, dict[str, object]]) -> None:
    _, result = outcome
    status = result["status"]
    assert isinstance(status, dict)
    assert status["train"] == 2
    assert result["said"] == "arcticseg: error: torch is not installed; pip install 'arcticseg[train]'\n"
