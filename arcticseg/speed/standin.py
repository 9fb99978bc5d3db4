"""What is measured of a config: its network and batch on a GPU, a stand-in that a CPU can do; as overrides."""

from __future__ import annotations

from collections.abc import Sequence

from arcticseg.engine.config import accumulation_steps
from arcticseg.models.config import UNetConfig, UPerNetConfig, ViTConfig
from arcticseg.run.config import RunConfig

# A run that only measures: no files to go on from, nothing sent anywhere.
_QUIET = (
    "steps=1000000",
    "epochs=null",
    "tracking.wandb=off",
    "validate_every=0",
    "checkpoint_every=0",
    "model.init_from=null",
    "model.init_channels=[]",
    "model.init_adapt=null",
)
# Sizes that one CPU core does a few times a second; a patch stays what it is.
_VIT = ("model.encoder.embed_dim=192", "model.encoder.depth=4", "model.encoder.num_heads=3")
_MAE = ("pretrain.decoder_dim=96", "pretrain.decoder_depth=2", "pretrain.decoder_heads=3")
_UPERNET = ("model.decoder.channels=64",)
_CPU = ("engine.precision=fp32", "engine.threads=1")
# Steps between logs; warm-up and timed steps are multiples of it, so that logged shares are of timed steps alone.
GPU_LOGS, CPU_LOGS = 20, 5
# Samples of a step and a micro batch on a CPU, of a rank.
CPU_BATCH, CPU_MICRO = 8, 4
# Edge of simulated tiles on a CPU.
CPU_TILE = 128


def on_gpu(cfg: RunConfig, micro: int | None = None, workers: int | None = None) -> list[str]:
    """A micro batch a step, as one GPU of the run has it; `micro` and `workers` in place of the config's."""
    micro = micro or cfg.engine.micro_batch_size or accumulation_steps(cfg.engine, 1)[0]
    sizes = [f"engine.global_batch_size={micro}", f"engine.micro_batch_size={micro}"]
    workers = cfg.data.workers if workers is None else workers
    return [*_QUIET, f"tracking.every={GPU_LOGS}", *sizes, f"data.workers={workers}"]


def on_cpu(cfg: RunConfig, ranks: int = 1) -> list[str]:
    """A small network of the same kind, small batches, float32."""
    sizes = [f"engine.global_batch_size={CPU_BATCH * ranks}", f"engine.micro_batch_size={CPU_MICRO}"]
    return [*_QUIET, f"tracking.every={CPU_LOGS}", *_CPU, *sizes, "data.workers=1", *_small_network(cfg)]


def _small_network(cfg: RunConfig) -> Sequence[str]:
    encoder, decoder = cfg.model.encoder, cfg.model.decoding
    vit = _VIT if isinstance(encoder, ViTConfig) else ()
    if cfg.task == "pretrain":
        return (*vit, *_MAE)
    upernet = _UPERNET if isinstance(decoder, UPerNetConfig) else ()
    unet = ("model.encoder.filters=[4, 8]",) if isinstance(encoder, UNetConfig) else ()
    return (*vit, *upernet, *unet)


def sizes(overrides: Sequence[str]) -> list[str]:
    """Those of the overrides that say how large the stand-in is."""
    return [text for text in overrides if text not in _QUIET and not text.startswith("tracking.")]
