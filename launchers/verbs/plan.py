"""Tell what a config would need and do on other machines: memory, speed, data rate, size of checkpoints, run time."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `arcticseg plan`."""
