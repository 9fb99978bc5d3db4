"""A training on a server with credentials: they are in nothing that it prints or keeps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("obstore")
pytest.importorskip("deepspeed")
pytest.importorskip("wandb")

from tests.served import serve
from tests.training import UNET, empty_config, launch, overrides

SECRET = "0pen-sesame"


def test_a_run_keeps_and_says_none(tiny_shards: Path, tmp_path: Path) -> None:
    """Ranks, checkpoint, weights, and wandb's own record included; and it goes on with them given again."""
    out = tmp_path / "run"
    config = empty_config(tmp_path)
    with serve(tiny_shards) as server:
        host = server.address.removeprefix("http://")
        address = f"http://me:{SECRET}@{host}/set?X-Amz-Signature={SECRET}"
        more = {"steps": 2, "tracking.wandb": "offline", "data.cache": tmp_path / "cache", "data.patience": 20}
        arguments = overrides(Path("x"), out, UNET, more, {"data.shards": address})
        server.faults["train-000000.json"] = ("500", 4)
        training = launch(config, arguments, ranks=2)
        lines = set()
        while training.poll() is None:
            for child in map(int, Path(f"/proc/{training.pid}/task/{training.pid}/children").read_text().split()):
                lines.add(Path(f"/proc/{child}/cmdline").read_bytes())
            try:
                training.wait(0.2)
            except subprocess.TimeoutExpired:
                continue
        printed = training.communicate()[0]
        assert training.returncode == 0, printed
        assert "trying again" in printed
        assert SECRET not in printed
        assert all(SECRET in said for said in server.said)
        assert any(b"launchers.train" in line and b"***" in line for line in lines)
        # The children of the first moment, before they start themselves again, have their parent's line.
        assert not any(SECRET.encode() in line for line in lines)
        kept = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(tmp_path / "cache")]
        assert {"config.yaml", "metrics.jsonl", "last.safetensors", "state.json"} <= {path.name for path in kept}
        assert any("wandb" in path.parts for path in kept)
        assert [path for path in kept if SECRET.encode() in path.read_bytes()] == []
        again = launch(str(out / "config.yaml"), ["--change", "steps=3"], resume=True)
        refused = again.communicate()[0]
        assert again.returncode == 2, refused
        assert "credentials are not kept" in refused
        again = launch(config, [*arguments, "--change", "steps=3"], resume=True)
        printed = again.communicate()[0]
        assert again.returncode == 0, printed
        assert SECRET not in printed
