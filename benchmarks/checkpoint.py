"""Saving ViT-L's state from two ranks, against writing as many bytes with fsync.

python benchmarks/checkpoint.py --out /tmp/checkpoint

Weights, both moments of Adam: 3.7 GB. Two ranks in ZeRO 1, float32; a plain writer and a save take turns, in one run.
A plain writer is a process a rank, too: it writes its share of the bytes in pieces of 4 MB and flushes them to disk.
A save is all of it until it is whole: pieces put together, checksums, files, `state.json`, the rename. What is removed
afterwards, on both sides, is not on the clock; for checkpoints the time is told.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path

import torch

from arcticseg.engine import checkpoint, process_group
from arcticseg.engine.checkpoint import Position
from arcticseg.engine.config import AdamWConfig, EngineConfig
from arcticseg.engine.deepspeed_engine import make_engine
from arcticseg.engine.process_group import Ranks, barrier
from arcticseg.engine.step import DeepSpeedStep
from arcticseg.models.config import ModelConfig, ViTConfig
from arcticseg.run import build
from arcticseg.run.config import RunConfig

# Largest ratio of a save to writing as many bytes.
RATIO = 1.3
RANKS, ROUNDS = 2, 5
_PIECE = 4 << 20


def plain(path: Path, count: int) -> None:
    """Write so many bytes to a new file, and flush them to the disk."""
    piece = os.urandom(_PIECE)
    with open(path, "wb") as file:
        for start in range(0, count, _PIECE):
            file.write(memoryview(piece)[: count - start])
        file.flush()
        os.fsync(file.fileno())


def worker(out: Path, name: str, rounds: int) -> None:
    """One rank."""
    ranks = process_group.start()
    torch.set_num_threads(1)
    run = RunConfig(steps=1, model=ModelConfig(encoder=ViTConfig(name)))
    with torch.device("meta"):
        model = build.build_model(run, 384)
    model = model.to_empty(device="cpu")
    for value in (*model.parameters(), *model.buffers()):
        torch.nn.init.zeros_(value)
    task = build.build_task(run, model)
    engine = make_engine(model, EngineConfig(1, global_batch_size=RANKS), AdamWConfig(), ranks)
    for master in engine.optimizer.single_partition_of_fp32_groups:
        state = engine.optimizer.optimizer.state[master]
        state["step"] = torch.tensor(1.0)
        # Values that no file system or memory can shorten.
        for key in ("exp_avg", "exp_avg_sq"):
            state[key] = torch.rand_like(master)
        master.data.copy_(torch.rand_like(master))
    step = DeepSpeedStep(engine, task, torch.float32, RANKS, 1.0)
    saver = checkpoint.make_saver(out, ranks)
    # When it is whole, the one before the last is removed; that is timed by itself, as plain files are, too.
    remove_old, saver.done = saver.done, lambda whole: None
    for number in range(1, rounds + 1):
        _round(out, step, saver, number, ranks)
        if ranks.is_main:
            began = time.monotonic()
            remove_old(out / "checkpoints" / f"step-{number:08d}")
            print(f"removing the checkpoint before: {time.monotonic() - began:.2f} s", flush=True)
    process_group.stop()


def _round(out: Path, step: DeepSpeedStep, saver: checkpoint.Saver, number: int, ranks: Ranks) -> None:
    """A save and a plain writer, the other way round in each second round."""
    for what in ("save", "plain")[:: 1 if number % 2 else -1]:
        if ranks.is_main:
            os.sync()
        barrier()
        began = time.monotonic()
        if what == "save":
            checkpoint.save(saver, step, out, Position(number), [], {"config": "{}"})
            error = saver.settle()
            assert error is None, error
        else:
            plain(out / f"plain-{number}-{ranks.rank}", _bytes(out) // RANKS)
        barrier()
        seconds = time.monotonic() - began
        if what == "plain":
            # Two stay, as of checkpoints: both sides find a disk in the same state.
            (out / f"plain-{number - 2}-{ranks.rank}").unlink(missing_ok=True)
        if ranks.is_main:
            print(
                json.dumps({"round": number, "what": what, "seconds": round(seconds, 3), "bytes": _bytes(out)}),
                flush=True,
            )
            with open(out / "rows.jsonl", "a") as rows:
                rows.write(json.dumps({"what": what, "seconds": seconds}) + "\n")


def _bytes(out: Path) -> int:
    """Bytes of a checkpoint's tensors; before there is one, about as many."""
    folders = sorted((out / "checkpoints").glob("step-*"))
    return sum(path.stat().st_size for path in folders[-1].glob("model-*")) if folders else 3_700_000_000


def main() -> int:
    """Entry point; status 1 where saving takes too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("/tmp/arcticseg-checkpoint"), help="folder, 12 GB for a while")
    parser.add_argument("--encoder", default="vit_large_patch16_224")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.out, arguments.encoder, arguments.rounds)
        return 0
    from launchers import local

    shutil.rmtree(arguments.out, ignore_errors=True)
    arguments.out.mkdir(parents=True)
    status = local.run([sys.executable, __file__, *sys.argv[1:], "--worker"], RANKS)
    if status:
        return status
    rows = [json.loads(line) for line in (arguments.out / "rows.jsonl").read_text().splitlines()]
    shutil.rmtree(arguments.out)
    # The first round warms up: the file system finds its blocks.
    times = {what: [row["seconds"] for row in rows if row["what"] == what][1:] for what in ("save", "plain")}
    ratios = [save / write for save, write in zip(times["save"], times["plain"], strict=True)]
    ratio = statistics.median(ratios)
    print(f"save {statistics.median(times['save']):.2f} s, plain {statistics.median(times['plain']):.2f} s")
    print(f"ratio {ratio:.2f} (from {min(ratios):.2f} to {max(ratios):.2f}), at most {RATIO}: ", end="")
    print("PASS" if ratio <= RATIO else "FAIL")
    return int(ratio > RATIO)


if __name__ == "__main__":
    sys.exit(main())
