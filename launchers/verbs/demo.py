"""The whole chain on simulated scenes: simulate, shards, pretrain, fine-tune, evaluate, maps, report.

arcticseg demo --out demo
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg demo`."""
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder to write to (default demo)")
    parser.add_argument("--seed", type=int, default=0, help="of the simulation and the training (default 0)")
    parser.add_argument(
        "--tiny", action="store_true", help="few scenes and steps: shows that it runs, not that it learns"
    )


def main(arguments: argparse.Namespace) -> None:
    """Run the demo."""
    from launchers.demo import demo

    demo(arguments.out, arguments.seed, arguments.tiny)
