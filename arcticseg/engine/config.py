"""Configs of the engine and the optimiser, and how a global batch is shared out; no torch here."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal

from arcticseg.choice import Choice
from arcticseg.errors import ConfigError, need
from arcticseg.ice.sigrid import CHARTS


@dataclass(frozen=True)
class OptimConfig(Choice):
    """An optimiser of torch, chosen by name; linear warm-up, cosine decay, once or several times.

    The implementation takes parameter groups and what `arguments` gives. It must be able to leave a step out, as
    torch's fused optimisers are (`found_inf`).
    """

    name: str = "adamw"
    lr: float = 1e-4
    weight_decay: float = 0.05
    # Share of all steps spent on warm-up.
    warmup: float = 0.05
    # Where it begins, as a share of lr.
    warmup_from: float = 0.0
    # Cosines after warm-up, equally long, each from lr down to final_lr.
    cycles: int = 1
    # Final learning rate as a share of lr.
    final_lr: float = 0.01
    # Largest norm of the gradient; 0: no clipping.
    clip: float = 1.0
    # Rate of the encoder as a share of lr, that of decoder and heads.
    encoder_rate: float = 1.0
    # By what the rate falls from each layer of the encoder to the one before it; 1: it does not.
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        need(self.lr > 0, "lr", self.lr, "set a positive learning rate")
        need(self.weight_decay >= 0, "weight_decay", self.weight_decay, "set 0 or more")
        need(0 <= self.warmup < 1, "warmup", self.warmup, "set a share of the steps in [0, 1)")
        need(0 <= self.warmup_from <= 1, "warmup_from", self.warmup_from, "set a share of lr in [0, 1]")
        need(self.cycles > 0, "cycles", self.cycles, "set 1 (no restart) or more")
        need(0 <= self.final_lr <= 1, "final_lr", self.final_lr, "set a share of lr in [0, 1]")
        need(self.clip >= 0, "clip", self.clip, "set 0 (off) or more")
        remedy = "set a positive number; model.frozen keeps an encoder as it is"
        need(0 < self.encoder_rate <= 100, "encoder_rate", self.encoder_rate, remedy)
        need(0 < self.layer_decay <= 1, "layer_decay", self.layer_decay, "set a share in (0, 1]; 1: none")

    def arguments(self) -> dict[str, Any]:
        """What the implementation takes by keyword; the rest is for the training loop."""
        own = (field.name for field in fields(self) if field.name not in {f.name for f in fields(OptimConfig)})
        return {"lr": self.lr, "fused": True} | {name: getattr(self, name) for name in own}


@dataclass(frozen=True)
class AdamWConfig(OptimConfig):
    """Adam with decoupled weight decay."""

    betas: tuple[float, float] = (0.9, 0.95)

    implementation: ClassVar[str] = "torch.optim:AdamW"

    def __post_init__(self) -> None:
        super().__post_init__()
        need(all(0 <= beta < 1 for beta in self.betas), "betas", list(self.betas), "set two values in [0, 1)")


@dataclass(frozen=True)
class SGDConfig(OptimConfig):
    """Stochastic gradient descent."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = False

    implementation: ClassVar[str] = "torch.optim:SGD"

    def __post_init__(self) -> None:
        super().__post_init__()
        need(0 <= self.momentum < 1, "momentum", self.momentum, "set a value in [0, 1)")
        need(not self.nesterov or self.momentum > 0, "nesterov", True, "set momentum above 0, too")


OptimConfig.table = {"adamw": AdamWConfig, "sgd": SGDConfig}


# Seconds after which ranks that wait for each other give up, as gloo has it; the watchdog has the first word.
COLLECTIVE_SECONDS = 1800.0
MAX_HANG = 1500.0


@dataclass(frozen=True)
class EngineConfig:
    """DeepSpeed."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    # In which gradients are accumulated and summed over ranks; bf16 halves their memory and the traffic, and rounds.
    gradients: Literal["fp32", "bf16"] = "fp32"
    # Keep float32 weights and the optimiser's state in the memory of the host.
    offload: bool = False
    # Compile the network and its loss (torch.compile): the first step takes a minute, the others less.
    compile: bool = False
    # Samples to one optimiser step, over all ranks; stays what it is on any number of ranks.
    global_batch_size: int = 16
    # Samples to one forward pass of one rank; null: all of the rank's share.
    micro_batch_size: int | None = None
    # CPU threads a rank; null: cores divided by local ranks.
    threads: int | None = None
    # Steps in a row that may be left out for NaN or infinity, before the run stops.
    max_skipped: int = 10
    # Seconds in which a rank may make no progress; 0: any number.
    hang_seconds: float = 900.0

    def __post_init__(self) -> None:
        total, micro = self.global_batch_size, self.micro_batch_size
        need(total > 0, "global_batch_size", total, "set 1 or more")
        good = micro is None or (micro > 0 and total % micro == 0)
        need(good, "micro_batch_size", micro, f"set a divisor of global_batch_size ({total})")
        need(self.threads is None or self.threads > 0, "threads", self.threads, "set 1 or more")
        need(self.max_skipped >= 0, "max_skipped", self.max_skipped, "set 0 or more")
        half = self.precision != "fp32"
        remedy = f"set 1: DeepSpeed's stage 0 has no exact weights under {self.precision}"
        need(not half or self.zero_stage > 0, "zero_stage", self.zero_stage, remedy)
        remedy = "set 1, 2 or 3: stage 0 keeps all of it on each device"
        need(not self.offload or self.zero_stage > 0, "zero_stage", self.zero_stage, remedy)
        remedy = f"set fp32: precision is {self.precision}"
        need(self.gradients == "fp32" or self.precision == "bf16", "gradients", self.gradients, remedy)
        hang = self.hang_seconds
        need(hang == 0 or 5 <= hang <= MAX_HANG, "hang_seconds", hang, f"set 0 (off), or 5 to {MAX_HANG:.0f}")


@dataclass(frozen=True)
class HookConfig(Choice):
    """Something beside the training loop, chosen by name; see `engine.hooks.hook.Hook`.

    The implementation takes the config's keys.
    """

    # Tasks that it is for; empty: any.
    tasks: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True)
class EarlyStopConfig(HookConfig):
    """Ends a training whose score no longer rises."""

    name: str = "early_stop"
    # Null: the first by which the run keeps its best weights.
    score: str | None = None
    # Validations without a rise.
    patience: int = 10
    # By how much more than the highest score so far is a rise.
    min_delta: float = 0.0
    # Validations over which the score is averaged; 1: each by itself.
    window: int = 1

    implementation: ClassVar[str] = "arcticseg.engine.hooks.early_stop:EarlyStop"

    def __post_init__(self) -> None:
        need(self.patience > 0, "patience", self.patience, "set 1 or more")
        need(self.min_delta >= 0, "min_delta", self.min_delta, "set 0 or more")
        need(self.window > 0, "window", self.window, "set 1 or more")


@dataclass(frozen=True)
class ProbeConfig(HookConfig):
    """Scores of a linear map from the frozen encoder's features to charts, during a pretraining."""

    name: str = "probe"
    # Steps between probes; there is one at the end, too.
    every: int = 1000
    # Validation samples with charts, over all ranks, and patches of each.
    samples: int = 256
    patches: int = 64
    # How far covariances are drawn to a multiple of the identity, as a share of their mean variance.
    shrinkage: float = 0.01
    charts: tuple[str, ...] = ("SIC", "SOD")

    implementation: ClassVar[str] = "arcticseg.engine.hooks.probe:Probe"
    tasks: ClassVar[tuple[str, ...]] = ("pretrain",)

    def __post_init__(self) -> None:
        for key in ("every", "samples", "patches"):
            need(getattr(self, key) > 0, key, getattr(self, key), "set 1 or more")
        need(0 < self.shrinkage <= 1, "shrinkage", self.shrinkage, "set a share in (0, 1]")
        good = bool(self.charts) and set(self.charts) <= set(CHARTS) and len(set(self.charts)) == len(self.charts)
        need(good, "charts", list(self.charts), f"set some of {', '.join(CHARTS)}, each once")


@dataclass(frozen=True)
class EMAConfig(HookConfig):
    """The exponential moving average of the weights."""

    name: str = "ema"
    # What the average keeps of itself in a step.
    decay: float = 0.9998
    # Whether validations score the average, too, which takes them twice as long.
    validate: bool = True

    implementation: ClassVar[str] = "arcticseg.engine.hooks.ema:EMA"

    def __post_init__(self) -> None:
        need(0 < self.decay < 1, "decay", self.decay, "set a share in (0, 1), such as 0.9998")


@dataclass(frozen=True)
class AverageConfig(HookConfig):
    """The mean of the last weights."""

    name: str = "average"
    # How many weights are in the mean.
    last: int = 5
    # Steps between them; 0: those of each validation.
    every: int = 0

    implementation: ClassVar[str] = "arcticseg.engine.hooks.average:Average"

    def __post_init__(self) -> None:
        need(0 < self.last <= 100, "last", self.last, "set 1 to 100: a checkpoint holds as many weights")
        need(self.every >= 0, "every", self.every, "set 0 (those of each validation) or more")


@dataclass(frozen=True)
class PicturesConfig(HookConfig):
    """Pictures of a few validation samples."""

    name: str = "pictures"
    # Validations between pictures; there is one after the first.
    every: int = 1
    # Validation samples, the same in each picture.
    samples: int = 4

    implementation: ClassVar[str] = "arcticseg.engine.hooks.pictures:Pictures"

    def __post_init__(self) -> None:
        need(self.every > 0, "every", self.every, "set 1 or more")
        need(0 < self.samples <= 32, "samples", self.samples, "set 1 to 32")


# Logs, the progress bar and the best weights are always there.
HookConfig.table = {
    "early_stop": EarlyStopConfig,
    "pictures": PicturesConfig,
    "probe": ProbeConfig,
    "ema": EMAConfig,
    "average": AverageConfig,
}


def accumulation_steps(engine: EngineConfig, world_size: int, pairs: bool = False) -> tuple[int, int]:
    """(micro batch size, accumulation steps) of one rank: global batch = micro x accumulation x world size.

    Args:
        pairs: micro batches must not part pairs of places, as CutMix needs it.

    Raises:
        ConfigError: the sizes do not divide.
    """
    total = engine.global_batch_size
    if total % world_size:
        raise ConfigError(
            f"key 'engine.global_batch_size' is {total}; set a multiple of the number of ranks ({world_size})"
        )
    share = total // world_size
    # A micro batch larger than the share, as after a move to more ranks, shrinks to it.
    micro = min(engine.micro_batch_size or share, share)
    if share % micro:
        raise ConfigError(
            f"key 'engine.micro_batch_size' is {micro}; set a divisor of {share}, "
            f"the share of one of {world_size} ranks of engine.global_batch_size {total}"
        )
    if pairs and micro % 2:
        raise ConfigError(
            f"key 'data.augment.cutmix' mixes pairs of samples, and a rank's micro batches are of {micro}; set an even "
            f"engine.micro_batch_size, and engine.global_batch_size to a multiple of {2 * world_size}"
        )
    return micro, share // micro
