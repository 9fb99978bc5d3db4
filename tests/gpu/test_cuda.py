"""What only a CUDA device can show; skipped where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from arcticseg.data.batch import collate
from arcticseg.data.decode import Layout
from arcticseg.data.manifest import read_manifest
from arcticseg.data.reader import SampleReader
from arcticseg.data.ring import Ring
from arcticseg.data.select import select
from arcticseg.data.transforms import Assemble
from arcticseg.run.config import RunConfig
from tests.training import VIT, empty_config, launch, lines, overrides, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


def test_inputs_are_the_same_on_the_device(tiny_shards: Path) -> None:
    selection = select(tiny_shards, read_manifest(tiny_shards), "train")
    batch = collate([SampleReader(selection).read(i) for i in range(4)], range(4))
    assemble = Assemble(RunConfig(steps=1).data.names, valid_plane=True)
    on_cpu, on_device = assemble(batch), assemble(assemble.moved(batch, torch.device("cuda")))
    torch.testing.assert_close(on_device.x.cpu(), on_cpu.x, atol=1e-3, rtol=1e-3)
    assert torch.equal(on_device.data.cpu(), on_cpu.data)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_copied_from_page_locked_memory(tiny_shards: Path, workers: int) -> None:
    """Slots are given back as soon as their copies have been started, and filled again while these still run."""
    manifest = read_manifest(tiny_shards)
    selection = select(tiny_shards, manifest, "train")
    layout = Layout.of(manifest.tile, manifest.factors, RunConfig(steps=1).data.names)
    rows = [[(4 * step + i, (step + i) % len(selection)) for i in range(4)] for step in range(40)]
    ring = Ring(SampleReader(selection), layout, 4, workers, 2, pin_memory=True)
    try:
        copies = []
        for filled in ring.fill(iter(rows)):
            assert filled.batch.hh.is_pinned()
            copies.append(filled.batch.to(torch.device("cuda")))
            ring.release(filled)
        for copy, asked in zip(copies, rows, strict=True):
            tiles = [SampleReader(selection).read(number) for _, number in asked]
            assert torch.equal(copy.hh.cpu(), collate(tiles, range(4)).hh)
    finally:
        ring.close()


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_bf16_trains(zero_stage: int, tiny_shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DS_ACCELERATOR", "cuda")
    out = tmp_path / "run"
    settings = VIT | {"steps": 5, "engine.zero_stage": zero_stage, "engine.precision": "bf16"}
    train(empty_config(tmp_path), overrides(tiny_shards, out, settings), starting=launch)
    assert len(lines(out, "train")) == 5
