"""What a config needs and does on GPUs that are not here: its network's arithmetic at speeds that were measured."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from arcticseg.engine.config import EngineConfig, accumulation_steps
from arcticseg.run.config import RunConfig
from arcticseg.speed.arithmetic import ATTENTION, CONVOLUTION, MATMUL, Operation, Work
from arcticseg.speed.machines import LOADER, SPEEDS, Gpu

# Bytes that the driver, libraries and holes between tensors take: some, and a share of all else.
_TAKEN, _HOLES = 1.0e9, 0.05
# Share of the copy that an optimiser reaches, which goes over long vectors.
_VECTOR = 0.7


@dataclass(frozen=True)
class Cluster:
    """Nodes of equal GPUs; `network`: bytes a second of a GPU to other nodes, one way."""

    gpu: Gpu
    nodes: int
    gpus: int
    network: float

    @property
    def ranks(self) -> int:
        """All GPUs."""
        return self.nodes * self.gpus

    @property
    def link(self) -> float:
        """Bytes a second of the slowest link between ranks."""
        return self.network if self.nodes > 1 else self.gpu.link


@dataclass(frozen=True)
class Data:
    """What is trained on: samples, bytes a sample in the shards."""

    samples: int
    sample_bytes: float


@dataclass(frozen=True)
class Plan:
    """A training on a cluster.

    Attributes:
        global_batch, micro, accumulation: samples of a step, of a micro batch, and micro batches of a rank.
        memory: ZeRO stage -> bytes on a GPU.
        largest: ZeRO stage -> the largest micro batch that fits, a power of two; 0: none.
        network, optimiser, talk: seconds of a step.
        rate: samples a second.
        share: of the GPUs' matrix product.
        read: bytes a second from shards.
        loader: samples a second that the loaders can give.
        checkpoint: bytes.
        steps: of the run.
    """

    global_batch: int
    micro: int
    accumulation: int
    memory: dict[int, float]
    largest: dict[int, int]
    network: float
    optimiser: float
    talk: float
    rate: float
    share: float
    read: float
    loader: float
    checkpoint: float
    steps: int

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return self.network + self.optimiser + self.talk

    @property
    def seconds(self) -> float:
        """Of the run, validation apart."""
        return self.steps * self.step


def sized(cfg: RunConfig, cluster: Cluster) -> EngineConfig:
    """The engine's config with a global batch that the ranks can share: the config's own, or the next larger one."""
    least = 2 if cfg.data.augment.cutmix > 0 else 1
    ranks = cluster.ranks * least
    batch = math.ceil(cfg.engine.global_batch_size / ranks) * ranks
    share = batch // cluster.ranks
    wanted = cfg.engine.micro_batch_size or share
    micro = next(size for size in range(min(wanted, share), 0, -1) if share % size == 0 and size % least == 0)
    return replace(cfg.engine, global_batch_size=batch, micro_batch_size=micro)


def make_plan(cfg: RunConfig, work: Work, cluster: Cluster, data: Data) -> Plan:
    """Plan a training.

    Args:
        work: of a micro batch, such as `sized` has it.
    """
    engine, gpu = sized(cfg, cluster), cluster.gpu
    micro, accumulation = accumulation_steps(engine, cluster.ranks)
    stages = [stage for stage in (0, 1, 2, 3) if stage or engine.precision == "fp32"]
    network = accumulation * network_seconds(work, gpu, engine.compile, engine.precision)
    optimiser = _optimiser_seconds(work, engine, cluster)
    talk = _talk_seconds(work, engine, cluster, accumulation)
    step = network + optimiser + talk
    rate = engine.global_batch_size / step
    wanted = cfg.steps or int((cfg.epochs or 0) * data.samples) // engine.global_batch_size
    return Plan(
        engine.global_batch_size,
        micro,
        accumulation,
        {stage: memory_needed(work, engine, stage, cluster.ranks) for stage in stages},
        {stage: _largest(work, engine, stage, cluster) for stage in stages},
        network,
        optimiser,
        talk,
        rate,
        work.flops_a_sample * rate / cluster.ranks / gpu.product,
        rate * data.sample_bytes,
        loader_rate(cfg.data.workers) * cluster.ranks,
        checkpoint_bytes(work),
        max(1, wanted),
    )


def network_seconds(work: Work, gpu: Gpu, compiled: bool, precision: str = "bf16") -> float:
    """Seconds of forward and backward of a micro batch: of the GPU, or of the host that starts its kernels."""
    if precision == "fp32":
        gpu = replace(gpu, product=SPEEDS.tf32 * gpu.product)
    host = SPEEDS.host[compiled] * len(work.operations)
    return max(host, sum(_seconds(operation, gpu, compiled) for operation in work.operations))


def _seconds(operation: Operation, gpu: Gpu, compiled: bool) -> float:
    """As long as its arithmetic or its bytes take, whichever is longer."""
    share = {
        MATMUL: SPEEDS.matmul,
        ATTENTION: SPEEDS.attention,
        CONVOLUTION: SPEEDS.convolution[compiled] * min(1.0, operation.width / SPEEDS.wide),
    }.get(operation.kind)
    if share is not None:
        return max(operation.flops / (share * gpu.product), operation.moved / gpu.copy)
    moved = operation.moved * (SPEEDS.fused if compiled else 1.0)
    return moved / (SPEEDS.moved * gpu.copy)


def loop_bytes(work: Work, optimiser: int, held: float = 0.0) -> float:
    """Bytes of a plain loop: what a micro batch needs, and so many bytes a parameter for weights and optimiser."""
    return work.peak + work.inputs + optimiser * work.parameters + held


def memory_needed(work: Work, engine: EngineConfig, stage: int, ranks: int) -> float:
    """Bytes on a GPU: what a micro batch needs, weights and optimiser by ZeRO stage, what drivers and holes take."""
    state = work.trained * _state_bytes(engine, stage, ranks) + (work.parameters - work.trained) * _width(engine)
    # The next micro batch is assembled beside the one in work.
    tensors = work.peak + 2 * work.inputs + state
    return tensors * (1 + _HOLES) + _TAKEN


def _width(engine: EngineConfig) -> int:
    return 4 if engine.precision == "fp32" else 2


def _state_bytes(engine: EngineConfig, stage: int, ranks: int) -> float:
    """Bytes a parameter: weights, accumulated gradients, float32 masters and two moments."""
    weights = _width(engine) / (ranks if stage == 3 else 1)
    half = engine.precision != "fp32"
    gradients = (4 if engine.gradients == "fp32" else 2) / (ranks if stage >= 2 else 1) if half else 0.0
    masters = 0.0 if engine.offload else (12 if half or stage else 8) / (ranks if stage else 1)
    return weights + gradients + masters


def _largest(work: Work, engine: EngineConfig, stage: int, cluster: Cluster) -> int:
    """The largest micro batch, a power of two, that fits; 0: none."""
    fits = 0
    size = 1
    while size <= 4096 and memory_needed(_scaled(work, size), engine, stage, cluster.ranks) <= cluster.gpu.memory:
        fits, size = size, 2 * size
    return fits


def _scaled(work: Work, samples: int) -> Work:
    """The work of another micro batch: all but the gradients of weights grows with it."""
    share = samples / work.samples
    gradients = min(work.peak, 2 * work.trained)
    peak = int(gradients + (work.peak - gradients) * share)
    return replace(work, samples=samples, peak=peak, inputs=int(work.inputs * share))


def _optimiser_seconds(work: Work, engine: EngineConfig, cluster: Cluster) -> float:
    """Norm, clipping, Adam's 28 bytes a parameter, new weights; on a rank's part of them."""
    part = work.trained / (cluster.ranks if engine.zero_stage else 1)
    return part * 50 / (_VECTOR * cluster.gpu.copy)


def _talk_seconds(work: Work, engine: EngineConfig, cluster: Cluster, accumulation: int) -> float:
    """Gradients to their owners and weights back, around a ring; at stage 3 weights for each forward and backward."""
    ranks = cluster.ranks
    gradients = 4 if engine.gradients == "fp32" or engine.precision == "fp32" else 2
    times = 2 * accumulation if engine.zero_stage == 3 else 1
    moved = work.trained * (gradients + _width(engine) * times) * (ranks - 1) / ranks
    return moved / cluster.link


def checkpoint_bytes(work: Work) -> float:
    """Float32 weights, and two moments of those that are trained."""
    return 4.0 * work.parameters + 8.0 * work.trained


def loader_rate(workers: int) -> float:
    """Samples a second of a rank's loader, in proportion to what was measured with at least as many workers."""
    nearest = next((count for count in LOADER if count >= workers), max(LOADER))
    return LOADER[nearest] * min(1.0, max(workers, 1) / nearest)
