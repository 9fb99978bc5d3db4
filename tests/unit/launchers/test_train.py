"""The command line that `arcticseg train` and sweeps start trainings with."""

from __future__ import annotations

import pytest

from launchers.command import command


def test_several_ranks_get_a_port_and_the_devices_that_are_lent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    one = command("c.yaml", [], resume=True)
    assert one[1:] == ["-m", "launchers.train", "--config", "c.yaml", "--resume"]
    two = command("c.yaml", [], ranks=2)
    assert two[two.index("--num_accelerators") + 1] == "2"
    assert int(two[two.index("--master_port") + 1]) > 1023
    assert two[-4:] == ["--module", "launchers.train", "--config", "c.yaml"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    lent = command("c.yaml", [], ranks=2)
    assert lent[lent.index("--include") + 1] == "localhost:2,5"
    assert "--num_accelerators" not in lent
