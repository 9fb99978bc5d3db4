"""Trainings of every loss and of every way to combine them, in small: for tests that must hold for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from arcticseg.config import override_layer
from arcticseg.data.inputs import Inputs
from arcticseg.ice.sigrid import CHARTS, N_CLASSES
from arcticseg.ice.soft import COLUMNS, WIDTH
from arcticseg.models.config import HeadConfig
from arcticseg.run import build, config
from arcticseg.run.config import RunConfig
from arcticseg.tasks.config import LossConfig
from arcticseg.tasks.segment import Segment

SAMPLES, TILE = 8, 16
# Polygons of a sample.
ROWS = 5

_PLAIN = ["steps=2", "data.channels=[hh,hv,incidence]", "model.encoder=unet", "model.encoder.filters=[4,8]"]
_WEIGHTS = {"SIC": [3.0, *[0.5] * 9, 1.5], "SOD": [0.1, 4.0, 0.0, 1.0, 2.0, 0.7], "FLOE": [1.0, 0.2, 0.3, 5.0, 1, 0, 2]}


def _of_loss(name: str, kind: type[LossConfig]) -> list[str]:
    """Each chart that can have the loss has it."""
    head = kind.heads[0] if kind.heads else "classification"
    able = cast(type[HeadConfig], HeadConfig.table[head]).charts
    charts = [chart for chart in CHARTS if chart in kind.charts and chart in able]
    return [f"model.heads.{chart}={head}" for chart in charts] + [f"segment.losses.{chart}={name}" for chart in charts]


def _cases() -> dict[str, list[str]]:
    losses = {name: _of_loss(name, cast(type[LossConfig], kind)) for name, kind in LossConfig.table.items()}
    weighed = {
        f"{name} weighed": [*keys, "weighed"]
        for name, keys in losses.items()
        if cast(type[LossConfig], LossConfig.table[name]).weighs
    }
    several = [
        "segment.losses.SOD=[cross_entropy, {name: dice, weight: 0.5}, {name: lovasz, weight: 0.25}]",
        "segment.weights={SIC: 1, SOD: 3, FLOE: 2}",
    ]
    return {
        **losses,
        **weighed,
        "several": several,
        "water": ["segment.consistency=0.7"],
        "water of ordinals": ["segment.consistency=0.7", "model.heads.SIC=ordinal", "model.heads.SOD=ordinal"],
        "polygons": ["segment.polygons.SOD.least=8", "segment.polygons.FLOE.least=3", "segment.losses.FLOE=soft"],
        "uncertainty": ["segment.balance=uncertainty", "segment.consistency=0.7", *several],
        "gradient": ["segment.balance=gradient", "segment.consistency=0.7", *several],
        "gradient, a decoder a chart": ["segment.balance=gradient", "model.decoder.shared=false"],
        "auxiliary": ["model.auxiliary.channels=8", *several],
        "all": [
            *["segment.balance=uncertainty", "segment.polygons.SOD.least=8", "segment.losses.FLOE=soft", "weighed"],
            *["model.auxiliary.channels=8", "model.auxiliary.map=0", "segment.consistency=0.7"],
        ],
    }


# Name -> overrides; `weighed`: classes have weights.
CASES = _cases()
# Which need all samples of a rank at once.
WHOLE = {
    "dice over the batch": [
        "segment.losses.SOD={name: dice, over: batch}",
        "segment.losses.FLOE={name: dice, over: batch}",
    ]
}


def made(case: Sequence[str], seed: int = 0) -> tuple[RunConfig, nn.Module, Segment]:
    """Config, network and task of a case."""
    keys = [key for key in case if key != "weighed"]
    cfg = config.build([override_layer([*_PLAIN, f"seed={seed}", *keys])])
    model = build.build_model(cfg, TILE)
    task = build.build_task(cfg, model, _WEIGHTS if "weighed" in case else {})
    return cfg, model, cast(Segment, task)


def batch(cfg: RunConfig, seed: int = 0) -> Inputs:
    """Samples with labels, SAR and polygons that are missing unevenly: some have none, some have all."""
    random = np.random.default_rng(seed)
    shape = (SAMPLES, TILE, TILE)
    labels = np.stack([random.integers(0, N_CLASSES[chart], shape) for chart in CHARTS], axis=1).astype(np.uint8)
    missing = random.random(SAMPLES)[:, None, None, None] * np.ones((1, 3, 1, 1))
    # One without any label, one with all, one with those of SIC alone.
    missing[0], missing[3], missing[5, 1:] = 1.1, -1, 1.1
    labels[random.random(labels.shape) < missing] = 255
    x = torch.from_numpy(random.normal(size=(SAMPLES, cfg.data.in_chans, TILE, TILE)).astype(np.float32))
    data = torch.from_numpy(random.random(x.shape) < np.linspace(0, 1, SAMPLES)[:, None, None, None])
    rows = random.integers(0, ROWS, shape) + ROWS * np.arange(SAMPLES)[:, None, None]
    rows[random.random(shape) < np.linspace(1, 0, SAMPLES)[:, None, None]] = SAMPLES * ROWS
    shares = np.zeros((SAMPLES * ROWS, WIDTH), np.float32)
    for columns in COLUMNS.values():
        shares[:, columns] = random.dirichlet([0.4] * (columns.stop - columns.start), len(shares))
        shares[random.random(len(shares)) < 0.3, columns] = 0
    return Inputs(
        torch.arange(SAMPLES),
        torch.where(data, x, 0.0),
        data,
        None,
        torch.from_numpy(labels),
        poly=torch.from_numpy(rows.astype(np.int32)),
        shares=torch.from_numpy(shares),
    )


def part(inputs: Inputs, rows: slice) -> Inputs:
    """Some samples of a batch, as if they had been a batch: their own polygons only."""
    assert inputs.poly is not None
    assert inputs.shares is not None
    shares = inputs.shares[rows.start * ROWS : rows.stop * ROWS]
    poly = inputs.poly[rows] - rows.start * ROWS
    poly = torch.where(inputs.poly[rows] == len(inputs.shares), len(shares), poly).int()
    names = ("place", "x", "data", "labels")
    own: dict[str, Tensor] = {name: getattr(inputs, name)[rows] for name in names}
    return replace(inputs, **own, poly=poly, shares=shares)
