"""How wandb logs: what config, environment and logins say."""

from __future__ import annotations

import configparser
import netrc
import os
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from arcticseg.tracking.config import TrackingConfig

_SERVER = "https://api.wandb.ai"


def wandb_mode(cfg: TrackingConfig) -> Literal["online", "offline", "off"]:
    """How wandb logs: as the config says, less where WANDB_MODE, WANDB_DISABLED or `wandb offline` do.

    Online needs a key: WANDB_API_KEY, WANDB_IDENTITY_TOKEN_FILE, or a login, which `wandb login` keeps in netrc.
    """
    mode = os.environ.get("WANDB_MODE", _settings().get("mode", "")).strip().lower()
    if cfg.wandb == "off" or mode == "disabled" or os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
        return "off"
    if cfg.wandb == "offline" or mode in ("offline", "dryrun"):
        return "offline"
    asked = mode in ("online", "run") and "WANDB_MODE" in os.environ
    return "online" if asked or has_key() else "offline"


def server() -> str:
    """Address of wandb's server: WANDB_BASE_URL, that of `wandb login --host`, else the public one."""
    return os.environ.get("WANDB_BASE_URL") or _settings().get("base_url") or _SERVER


def has_key() -> bool:
    """Whether there is a key for the server."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    home = Path(os.environ.get("HOME", "/"))
    given = os.environ.get("NETRC")
    for path in [Path(given)] if given else [home / ".netrc", home / "_netrc"]:
        try:
            if netrc.netrc(path).authenticators(urlsplit(server()).netloc):
                return True
        except (OSError, ValueError, netrc.NetrcParseError):
            continue
    return False


def _settings() -> dict[str, str]:
    """What `wandb login --host` and `wandb offline` have left: of the user, then of the working folder."""
    home = Path(os.environ.get("HOME", "/"))
    known: dict[str, str] = {}
    for folder in (Path(os.environ.get("WANDB_CONFIG_DIR", home / ".config" / "wandb")), Path("wandb")):
        parser = configparser.ConfigParser()
        try:
            parser.read(folder / "settings", encoding="utf-8")
            known |= dict(parser.items("default"))
        except (OSError, ValueError, configparser.Error):
            continue
    return known
