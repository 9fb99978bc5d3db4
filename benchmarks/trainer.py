"""Trainer beside a bare loop of the same network, loader, waits, memory and talk, on what it runs on.

python benchmarks/trainer.py
python benchmarks/trainer.py --shards shards --case mae_b,unet --out /tmp/rows

On a GPU the networks have their real size, and the bare loop is plain PyTorch: the same network and compile setting,
the same assembly of batches that lie on the device, and the arithmetic of ZeRO 1 on one rank (float32 masters,
clipping, fused AdamW). On a CPU they are small stand-ins, and the bare loop is one around a DeepSpeed engine, over the
same loader.
Each case is a process of its own; one line of JSON a measurement, a table at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch

from arcticseg.run.config import load
from arcticseg.speed import standin, turns
from arcticseg.speed.bench import Effort, rows
from arcticseg.speed.clock import Phases, rounded

# Least share of the bare loop's samples/s; largest share of a step that the trainer adds on a CPU; waits; data wait.
SHARE, OVERHEAD, WAITS, DATA_WAIT = 0.97, 0.03, 1.0, 0.01
WORKERS = 14
GPU = Effort(Phases(warmup=10, timed=30, watched=5, profiled=3), seconds=1.5)
CPU = Effort(Phases(warmup=5, timed=20), seconds=2.0, pairs=5, ranks=2)


@dataclass(frozen=True)
class Case:
    """A network of a shipped config: overrides, samples of a micro batch, least samples/s on one H100 or H200."""

    config: str
    overrides: tuple[str, ...]
    batch: int
    least: float


_LARGE = "model.encoder.name=vit_large_patch16_224"
CASES = {
    "mae_b": Case("pretrain_vit", ("pretrain.decoder_depth=8",), 128, 1500),
    "mae_b4": Case("pretrain_vit", ("pretrain.decoder_depth=4",), 128, 2200),
    "mae_l": Case("pretrain_vit", (_LARGE, "pretrain.decoder_depth=8"), 128, 800),
    "vit_light": Case("scratch_vit", (), 64, 750),
    "unet": Case("scratch_unet", (), 128, 950),
}


def measure(name: str, arguments: argparse.Namespace) -> None:
    """One case, in this process."""
    case = CASES[name]
    given = [f"data.shards={arguments.shards}", *case.overrides, *arguments.set]
    cfg = load(case.config, given)
    if torch.cuda.is_available():
        workers = min(WORKERS, max(1, len(os.sched_getaffinity(0)) - 2))
        sized = load(
            case.config, [*given, *standin.on_gpu(cfg, arguments.batch or case.batch, workers), *arguments.set]
        )
        measured = rows(sized, GPU)
    else:
        small = standin.on_cpu(cfg)
        print(f"stand-in on a CPU: {' '.join(standin.sizes(small))}", file=sys.stderr)
        of_ranks = load(case.config, [*given, *standin.on_cpu(cfg, CPU.ranks), *arguments.set])
        sized = load(case.config, [*given, *small, *arguments.set])
        measured = rows(sized, CPU, of_ranks)
    shape = {"batch": sized.engine.global_batch_size, "precision": sized.engine.precision}
    for what, row in measured:
        print(json.dumps({"case": name, "what": what} | shape | rounded(row)), flush=True)


def run_cases(names: list[str], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """All rows of all cases, told as they come, each case in a process with a limit of time."""
    found: list[dict[str, Any]] = []
    with (
        open(arguments.out / "trainer.jsonl", "a", encoding="utf-8") as file,
        tempfile.NamedTemporaryFile() as turn,
        ThreadPoolExecutor(len(names) if arguments.together else 1) as pool,
    ):
        caches = {"TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / "arcticseg-inductor")}
        environment = caches | os.environ | {turns.VARIABLE: turn.name}
        for _ in pool.map(lambda name: _run_case(name, arguments, environment, file, found), names):
            pass
    return found


def _run_case(
    name: str, arguments: argparse.Namespace, environment: dict[str, str], file: IO[str], found: list[dict[str, Any]]
) -> None:
    command = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--shards", str(arguments.shards)]
    began = time.monotonic()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    timer = _killer(process, arguments.budget)
    assert process.stdout is not None
    for text in process.stdout:
        if text.startswith("{"):
            print(text, end="", flush=True)
            file.write(text), file.flush()
            found.append(json.loads(text))
    timer.cancel()
    seconds = time.monotonic() - began
    print(f"{name}: {seconds:.0f} s, status {process.wait()}", file=sys.stderr, flush=True)


def _killer(process: subprocess.Popen[str], seconds: float) -> Any:
    import threading

    timer = threading.Timer(seconds, process.kill)
    timer.start()
    return timer


def table(found: list[dict[str, Any]], names: list[str]) -> tuple[list[str], bool]:
    """The table, and whether all that must hold holds."""
    columns = ("samples_per_s", "of_bare", "mfu", "data_wait", "memory_gb", "waits_ours", "waits_deepspeed")
    lines = [
        "| case | bare | loader | " + " | ".join(columns) + " | overhead | talk |",
        "|---" * (len(columns) + 5) + "|",
    ]
    good = True
    for name in names:
        of_case = {row["what"]: row for row in found if row["case"] == name}
        trained = of_case.get("trainer", {})
        plain, over = of_case.get("bare loop", {}), of_case.get("trainer over bare DeepSpeed loop", {})
        talk = of_case.get(f"{CPU.ranks} ranks", {})
        cells = [plain.get("samples_per_s"), of_case.get("loader", {}).get("samples_per_s")]
        cells += [trained.get(column) for column in columns]
        spread = f"{over['overhead']:.1%} ({over['least']:.1%} to {over['greatest']:.1%})" if over else None
        cells += [spread, talk.get("communication")]
        lines.append(f"| {name} | " + " | ".join("-" if cell is None else str(cell) for cell in cells) + " |")
        good &= holds(name, trained, over)
    return lines, good


def holds(name: str, trained: dict[str, Any], over: dict[str, Any]) -> bool:
    """Whether a case is as fast as it must be."""
    if over:
        return bool(over["overhead"] < OVERHEAD)
    fast = trained.get("samples_per_s", 0) >= CASES[name].least and trained.get("of_bare", 0) >= SHARE
    return bool(fast and trained.get("waits_ours", 0) <= WAITS and trained.get("data_wait", 0) < DATA_WAIT)


def main() -> int:
    """Run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=Path, help="shards to train on (default: simulated ones)")
    parser.add_argument("--out", type=Path, default=Path("."), help="folder for trainer.jsonl (default: here)")
    parser.add_argument("--case", default=",".join(CASES), help="cases, with commas (default: all)")
    parser.add_argument("--batch", type=int, help="samples of a micro batch on a GPU (default: the case's own)")
    parser.add_argument("--budget", type=float, default=150.0, help="seconds for a case (default 150)")
    parser.add_argument("--together", action="store_true", help="all cases at once, on the clock one at a time")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("set", nargs="*", help="overrides of the configs, such as engine.compile=true")
    arguments = parser.parse_intermixed_args()
    if arguments.only:
        measure(arguments.only, arguments)
        return 0
    names = arguments.case.split(",")
    with tempfile.TemporaryDirectory(prefix="arcticseg-trainer-") as folder:
        if arguments.shards is None:
            arguments.shards = simulated(Path(folder), 384 if torch.cuda.is_available() else standin.CPU_TILE)
        arguments.out.mkdir(parents=True, exist_ok=True)
        lines, good = table(run_cases(names, arguments), names)
    print("\n".join(lines))
    print("PASS" if good else "FAIL", flush=True)
    return 0 if good else 1


def simulated(folder: Path, tile: int) -> Path:
    """Shards of a simulated scene."""
    from launchers.verbs.bench import make_shards

    return make_shards(folder, tile)


if __name__ == "__main__":
    sys.exit(main())
