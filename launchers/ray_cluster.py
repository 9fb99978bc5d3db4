"""A Ray cluster that runs already: joined within seconds, or an error that says what to do."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arcticseg.errors import ConfigError

ENVIRONMENT = {
    # `uv run` would otherwise make every worker install the project again.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}

# Where `ray start` notes the address that `auto` finds.
_CURRENT = Path("/tmp/ray/ray_current_cluster")
# Seconds to be accepted by the head; Ray itself tries for more than a minute.
_PATIENCE = 5.0


def join(address: str, options: Mapping[str, Any]) -> None:
    """Join a cluster.

    Args:
        address: `auto`, or host and port of the head.
        options: of `ray.init`.

    Raises:
        ConfigError: the cluster does not answer.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    try:
        for host, port in _heads(address):
            socket.create_connection((host, port), timeout=_PATIENCE).close()
        ray.init(address=address, **options)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise ConfigError(
            f"Ray cluster '{address}' does not answer ({' '.join(str(error).split())}); start it, and if it wants a "
            "token, set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN as on its nodes"
        ) from error


def _heads(address: str) -> Sequence[tuple[str, int]]:
    """Host and port to try; none where only Ray knows them."""
    if address == "auto":
        noted = _CURRENT.read_text(encoding="utf-8").strip() if _CURRENT.is_file() else ""
        address = os.environ.get("RAY_ADDRESS") or noted
    if address in ("", "auto", "local"):
        return []
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise ValueError("it is not host and port, such as 10.0.0.1:6379")
    return [(host.strip("[]"), int(port))]
