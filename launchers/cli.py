"""The `arcticseg` command."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import Any

from launchers.command import without_credentials
from launchers.status import PATIENCE, guarded

# Verb -> what it does; the module of the same name in `launchers.verbs` does it.
VERBS = {
    "simulate": "make simulated scenes, from nothing or from a real vector chart",
    "chart": "put a vector ice chart on a scene of your own",
    "rtt": "make 80 m ready-to-train scenes from raw ones",
    "shards": "build, check, split and describe tar shards",
    "train": "pretrain or fine-tune, from a config",
    "export": "write the weights of a run's newest checkpoint to one file",
    "bench": "measure a config's training on this machine, and say what bounds it",
    "models": "encoders, decoders and recipes: parameters, arithmetic, memory, speed",
    "plan": "memory, speed, data rate and run time of a config on other machines",
    "evaluate": "score a trained network on whole scenes, with maps",
    "predict": "draw charts of scenes: netCDF, GeoTIFF, maps",
    "reconstruct": "draw what a pretraining makes of a scene with patches removed",
    "report": "one page of evaluations and runs",
    "sweep": "a whole study with Ray Tune",
    "submit": "jobs for SLURM: scripts written and submitted",
    "sync": "send offline wandb runs to the server",
    "demo": "the whole chain on simulated scenes",
}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="arcticseg",
        description="Train and use the networks that draw sea ice charts from Sentinel-1 SAR.",
        epilog="`arcticseg VERB --help` tells the rest. Errors about input, config or the machine exit with status 2.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for verb, line in VERBS.items():
        module = importlib.import_module(f"launchers.verbs.{verb}")
        sub = verbs.add_parser(
            verb,
            help=line,
            description=(module.__doc__ or line).strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # A verb with actions of its own, such as `shards`, sets a main for each of them.
        sub.set_defaults(main=getattr(module, "main", None))
        module.add_arguments(sub)
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"arcticseg {version('arcticseg')}")
        parser.exit()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `arcticseg` command; returns the exit status."""
    arguments = make_parser().parse_args(without_credentials(argv))
    return guarded(lambda: arguments.main(arguments), PATIENCE if arguments.verb == "train" else 0.0)


if __name__ == "__main__":
    sys.exit(main())
