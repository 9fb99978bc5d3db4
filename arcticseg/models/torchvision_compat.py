"""Make torchvision importable beside a torch that it was not built for.

A torchvision wheel whose compiled part does not fit the installed torch (a CPU build of torch with the registry's
torchvision, for one) fails on import with "operator torchvision::nms does not exist", and timm with it. The compiled
part is only missed there: torchvision registers gradients and shapes for two operators, `nms` and `qnms`, that nobody
here calls. Declaring the two lets the import through; calling them still fails, as it should.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_SIGNATURE = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"

# A library's declarations live as long as this object does.
_declared: list[torch.library.Library] = []


def ensure_torchvision() -> None:
    """Import torchvision, declaring its two missing operators if that is what stands in the way.

    Call it before anything imports timm, in every process; calling it again costs nothing. An error other than the
    missing operators is passed on.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _declared or "torchvision::" not in str(error) or "does not exist" not in str(error):
            raise
        # What the failed import left behind would be taken for the whole package.
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + _SIGNATURE)
        _declared.append(library)
        importlib.import_module("torchvision")


@contextmanager
def hidden(name: str) -> Iterator[None]:
    """Make `import name` fail inside, unless the module is there already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]
