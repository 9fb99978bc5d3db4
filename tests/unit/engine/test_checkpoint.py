from __future__ import annotations

import json
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("deepspeed")

from arcticseg.engine.process_group import Ranks
from arcticseg.engine.reshard import suited
from arcticseg.errors import OutputError


def test_a_checkpoint_that_cannot_be_converted_is_named_and_left_alone(tmp_path: Path) -> None:
    checkpoint = tmp_path / "step-00000003"
    checkpoint.mkdir()
    (checkpoint / "state.json").write_text(json.dumps({"world_size": 2, "zero_stage": 1}))
    alone = Ranks(rank=0, local_rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"))
    with pytest.raises(OutputError, match=r"step-00000003: cannot be brought to another number of ranks .*; see that"):
        suited(checkpoint, 1, alone)
    assert list(tmp_path.iterdir()) == [checkpoint]
