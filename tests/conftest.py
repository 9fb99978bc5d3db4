"""Fixtures of all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real schemas, statistics, charts and SAR crops."""
    place = os.environ.get("ARCTICSEG_REAL_DATA")
    if not place:
        pytest.skip("ARCTICSEG_REAL_DATA is not set: it names the folder of real schemas, charts and SAR crops")
    return Path(place).resolve()
