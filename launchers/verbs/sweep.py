"""A whole study with Ray Tune: pretrainings, each once, then the fine-tunings that need them; a table at the end.

arcticseg sweep study --dry-run
arcticseg sweep my_study.yaml out=studies/a finetune.unet.optim.lr=1e-3
arcticseg sweep my_study.yaml out=studies/a --resume
"""

from __future__ import annotations

import argparse

from launchers.imports import add_import_argument


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg sweep`."""
    parser.add_argument("config", help="path of a sweep YAML, or the name of a shipped config")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="dotted overrides, such as out=studies/a")
    parser.add_argument("--dry-run", action="store_true", help="print the trials and their configs, then stop")
    parser.add_argument("--resume", action="store_true", help="go on with the study in its folder; finished runs stay")
    add_import_argument(parser)
    parser.add_argument(
        "--address", help="Ray cluster to run on, such as auto (default: RAY_ADDRESS, else this machine alone)"
    )


def main(arguments: argparse.Namespace) -> int:
    """Run the sweep."""
    from launchers.sweep.sweep import sweep

    return sweep(
        arguments.config,
        arguments.overrides,
        arguments.imports,
        arguments.dry_run,
        arguments.resume,
        arguments.address,
    )
