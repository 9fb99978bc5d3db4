"""GPUs that trainings were measured on, and the rows of these measurements."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Gpu:
    """A GPU; its speeds were measured by `benchmarks/trainer.py`, those of its links are the vendor's.

    Attributes:
        name: as people call it.
        memory: bytes.
        product: floating-point operations a second of an 8192^3 product in bf16.
        copy: bytes a second that a copy on the device reads and writes.
        link: bytes a second to another GPU of the machine, one way.
    """

    name: str
    memory: float
    product: float
    copy: float
    link: float


GPUS = {
    "h100": Gpu("NVIDIA H100 80GB", 85.5e9, 798e12, 3.0e12, 450e9),
    "h200": Gpu("NVIDIA H200", 150.7e9, 798e12, 4.3e12, 450e9),
}


@dataclass(frozen=True)
class Speeds:
    """Shares of a GPU's product and copy that operations of a training reach; fitted to the rows.

    Attributes:
        matmul, attention: of the product.
        convolution: of the product, with `wide` channels or more; with fewer, in proportion; compiled or not, since
            compiled networks keep their channels last.
        moved: of the copy, by all else.
        fused: share of the bytes of all else that a compiled network still moves.
        tf32: of the bf16 product, where a network computes in float32; the vendor's.
        host: seconds of the host an operation, compiled or not; a guess, for batches too small to keep the GPU busy.
    """

    matmul: float = 0.85
    attention: float = 0.15
    convolution: tuple[float, float] = (0.26, 0.50)
    wide: int = 128
    moved: float = 0.39
    fused: float = 0.57
    tf32: float = 0.5
    host: tuple[float, float] = (10e-6, 3e-6)


SPEEDS = Speeds()

# Samples a second of one rank's loader by its worker processes, on a machine of 16 cores.
LOADER: Mapping[int, float] = {4: 6500.0, 8: 10100.0, 14: 13600.0}


@cache
def measured() -> list[dict[str, Any]]:
    """The rows: GPU, source, config, overrides, batch, loop (`bare` or `trainer`), compiled, samples_per_s.

    Where memory was measured, too, `memory_gb`; `held_gb`: what the loop held besides network, optimiser and today's
    inputs. `optimiser_bytes`: of a parameter, for weights and optimiser, the gradient apart.
    """
    text = (files(__package__) / "rows.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
