"""Ray clusters that cannot be joined: told within seconds."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="Ray is not installed: pip install 'arcticseg[sweep]'")

from arcticseg.errors import ConfigError
from launchers import cli, ray_cluster
from launchers.ray_cluster import join
from tests import scenes


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:PORT", r"does not answer \(.*refused.*\); start it"),
        ("auto", r"does not answer \(.*refused.*\); start it"),
        ("no-such-host.invalid:6379", r"does not answer \(.*\); start it"),
        ("somewhere", r"does not answer \(it is not host and port, such as 10\.0\.0\.1:6379\)"),
        ("ray://127.0.0.1:PORT", r"does not answer \(.*refused.*\); start it"),
    ],
)
def test_no_answer(address: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    # What `ray start` has left on a machine whose Ray was killed.
    (tmp_path / "current").write_text(f"127.0.0.1:{port}\n")
    monkeypatch.setattr(ray_cluster, "_CURRENT", tmp_path / "current")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    began = time.monotonic()
    with pytest.raises(ConfigError, match=rf"^Ray cluster '{address.replace('PORT', str(port))}'.*{message}"):
        join(address.replace("PORT", str(port)), {})
    assert time.monotonic() - began < 20


def test_what_does_not_go_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scenes.write_raw(tmp_path / "in" / "a.nc", lines=100, samples=100)
    build = ["shards", "build", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--ray", "127.0.0.1:1"]
    for option in (["--workers", "2"], ["--max-memory", "1G"], ["--part", "1/2"]):
        assert cli.main([*build, *option]) == 2
        told = capsys.readouterr().err
        assert option[0] in told
        assert "--ray" in told
    assert cli.main(build) == 2
    assert "Ray cluster '127.0.0.1:1' does not answer" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
