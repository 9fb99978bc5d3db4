"""`deepspeed --hostfile` over pdsh, between two network namespaces with an sshd each; `make cluster` does more."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")

from tests import cluster, nodes

pytestmark = [pytest.mark.slow, pytest.mark.skipif(nodes.missing() is not None, reason=str(nodes.missing()))]


def test_a_training_over_two_nodes_that_is_killed_learns_what_it_would_have_learnt(tmp_path: Path) -> None:
    told: list[str] = []
    cluster.over_ssh(tmp_path, ["launcher"], told.append)
    assert len(told) == 3
