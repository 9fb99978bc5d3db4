"""Write the weights of a run's newest checkpoint to one safetensors file, with the config that they need.

Such as `weights/last.safetensors` is, of a run that has not ended. Needs no DeepSpeed; nothing in the run changes.

    arcticseg export runs/vit --out vit.safetensors

`--layout timm` writes the encoder alone, in timm's names and shapes, and a model card beside it (`encoder.md`). RUN may
then also be a weights file of a run:

    arcticseg export runs/vit/weights/best-combined.safetensors --layout timm --out encoder.safetensors
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launchers.terminal import note, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg export`."""
    parser.add_argument("run", type=Path, help="folder of a run; with --layout timm also a weights file of one")
    parser.add_argument(
        "--out", type=Path, help="file to write; by default RUN/weights/step-NUMBER.safetensors, of the checkpoint"
    )
    parser.add_argument(
        "--layout",
        choices=("arcticseg", "timm"),
        default="arcticseg",
        help="arcticseg: the whole network, for predict, evaluate and init_from; timm: its encoder, with a model card",
    )


def main(arguments: argparse.Namespace) -> int:
    """Export."""
    from arcticseg.engine.weights import write_weights
    from arcticseg.errors import ConfigError
    from arcticseg.run.folder import weights_path

    if arguments.layout == "timm":
        return _export_timm(arguments.run, arguments.out)
    if not arguments.run.is_dir():
        raise ConfigError(f"{arguments.run}: is no folder; give the folder of a run that has written a checkpoint")
    folder, weights, metadata = _newest(arguments.run)
    path = arguments.out or weights_path(arguments.run, folder)
    write_weights(path, weights, metadata)
    show(path)
    return 0


def _newest(run: Path) -> tuple[str, dict[str, Any], dict[str, str]]:
    """Name of the newest checkpoint of a run, its network's weights, and what stands beside them.

    Raises:
        ConfigError: there is none.
    """
    from arcticseg.engine import checkpoint
    from arcticseg.engine.checkpoint import Checkpoint
    from arcticseg.engine.weights import network_weights
    from arcticseg.errors import ConfigError

    folder = checkpoint.newest(run, lambda text: note(f"arcticseg: warning: {text}"))
    if folder is None:
        raise ConfigError(f"{run}: holds no checkpoint; give the folder of a run that has written one")
    saved = Checkpoint.open(folder)
    return folder.name, network_weights(saved.tensors.below("module/"), saved.metadata), dict(saved.metadata)


def _export_timm(run: Path, out: Path | None) -> int:
    """Write the encoder in timm's layout, and a model card."""
    from safetensors.torch import save_file

    from arcticseg import config
    from arcticseg.data.config import DataConfig
    from arcticseg.errors import ConfigError
    from arcticseg.files import atomic_path, make_folder, write_text
    from arcticseg.models.config import ModelConfig
    from arcticseg.models.exchange.card import card
    from arcticseg.models.exchange.public import to_timm
    from arcticseg.models.weights import PUBLIC, facts_of, load_weights
    from arcticseg.run.migrate import stored

    if out is None:
        raise ConfigError("--layout timm: needs --out; give the file to write")
    if run.is_file():
        folder, (weights, metadata) = None, load_weights(run)
    else:
        folder, weights, metadata = _newest(run)
    facts = facts_of(run, metadata)
    keys = stored(facts["config"])
    model = config.build(ModelConfig, keys["model"], "model.")
    data = config.build(DataConfig, keys["data"], "data.")
    public = to_timm(model.encoder, data.in_chans, facts["tile"], weights)
    beside = {key: facts[key] for key in ("statistics", "tile", "factors", "simulated")} | {"planes": data.planes}
    make_folder(out.parent)
    with atomic_path(out) as temporary:
        tensors = {name: value.contiguous() for name, value in public.tensors.items()}
        save_file(tensors, temporary, metadata={"format": "pt", PUBLIC: json.dumps(beside)})
    place = run if folder else run.parent.parent
    text = card(place.name, out.name, public, facts, data.planes, config.dump(keys), _scores(place, folder))
    write_text(out.with_suffix(".md"), text)
    show(out)
    show(out.with_suffix(".md"))
    return 0


def _scores(run: Path, folder: str | None) -> Mapping[str, Any] | None:
    """The last validation of a run, up to a checkpoint where one is given; None: none is recorded."""
    from arcticseg.run.folder import METRICS

    last = None
    if (run / METRICS).is_file():
        for line in (run / METRICS).read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            before = folder is None or row.get("step", 0) <= int(folder.rpartition("-")[2])
            last = row if row.get("kind") == "validation" and before else last
    return last
