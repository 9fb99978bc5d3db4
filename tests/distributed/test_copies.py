"""Copies of the weights, and a network that computes with them, in each ZeRO stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import Forked


@pytest.mark.parametrize(
    ("stage", "precision"), [(0, "fp32"), (1, "fp32"), (1, "bf16"), (2, "bf16"), (3, "fp32"), (3, "bf16")]
)
def test_a_network_computes_with_copies_and_then_with_what_it_had(stage: int, precision: str, tmp_path: Path) -> None:
    process = Forked("tests.distributed.copied", [tmp_path, stage, precision], 2, merged=True)
    printed, _ = process.communicate(timeout=200)
    assert process.returncode == 0, printed
    for rank in range(2):
        told = json.loads((tmp_path / f"{rank}.json").read_text())
        # What is frozen has no copy; whole tensors are rank 0's.
        learned = ["a.weight", "b.bias", "b.weight", "norm.bias", "norm.weight"]
        assert told.pop("whole") == ([] if rank else learned)
        assert told.pop("moved") > 0.01
        assert told == dict.fromkeys(told, True)
