"""Keys of heads: how a chart's classes are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from arcticseg.choice import Choice
from arcticseg.ice.sigrid import CHARTS


@dataclass(frozen=True)
class HeadConfig(Choice):
    """A chart's head: how its classes are predicted. The implementation takes (channels, chart)."""

    # Charts that it can predict.
    charts: ClassVar[tuple[str, ...]] = CHARTS
    # Its loss unless the task names another.
    loss: ClassVar[str]


@dataclass(frozen=True)
class RegressionConfig(HeadConfig):
    """One number a pixel, in classes."""

    name: str = "regression"

    implementation: ClassVar[str] = "arcticseg.models.heads:Regression"
    loss: ClassVar[str] = "squared_error"


@dataclass(frozen=True)
class ClassificationConfig(HeadConfig):
    """A logit a class."""

    name: str = "classification"

    implementation: ClassVar[str] = "arcticseg.models.heads:Classification"
    loss: ClassVar[str] = "cross_entropy"


@dataclass(frozen=True)
class OrdinalConfig(HeadConfig):
    """A logit for "above class k" for each class but the last; FLOE's last class, bergs, has no order."""

    name: str = "ordinal"

    implementation: ClassVar[str] = "arcticseg.models.heads:Ordinal"
    charts: ClassVar[tuple[str, ...]] = ("SIC", "SOD")
    loss: ClassVar[str] = "ordinal"


HeadConfig.table = {kind.name: kind for kind in (RegressionConfig, ClassificationConfig, OrdinalConfig)}
