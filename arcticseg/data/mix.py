"""CutMix: boxes that partners exchange; each pixel's polygon stays a row in the table of the sample it comes from."""

from __future__ import annotations

import torch
from torch import Tensor

from arcticseg.data.batch import Batch
from arcticseg.data.inputs import Polygons
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX


def mixed(planes: Tensor, box: Tensor, out: Tensor | None = None) -> Tensor:
    """Planes [B, C, H, W] with the box [B, 4] of each sample taken from its partner."""
    size = planes.shape[-1]
    if not planes.numel():
        return planes
    at = torch.arange(size, device=planes.device)
    top, bottom, left, right = box[:, :, None].unbind(1)
    rows, cols = (top <= at) & (at < bottom), (left <= at) & (at < right)
    inside = (rows[:, :, None] & cols[:, None, :])[:, None]
    partners = planes.view(-1, 2, *planes.shape[1:]).flip(1).view_as(planes)
    return torch.where(inside, partners, planes) if out is None else torch.where(inside, partners, planes, out=out)


def parted(batch: Batch, planes: Tensor) -> tuple[Tensor, Polygons | None]:
    """Labels as augmented, with rows of polygons as in `Batch.lab`, parted into labels [B, 3, H, W] and polygons."""
    if not batch.polygons:
        return planes, None
    assert batch.shares is not None
    labels, rows = planes[:, : len(CHARTS)], planes[:, len(CHARTS)]
    samples, table = batch.shares.shape[:2]
    own = torch.arange(samples, dtype=torch.int32, device=rows.device)[:, None, None]
    if batch.draws is not None and batch.draws.mix is not None:
        # A pixel's row is that of the sample which the pixel comes from.
        whole = own[:, None].expand(-1, -1, batch.size, batch.size)
        own = mixed(whole.contiguous(), batch.draws.mix)[:, 0]
    nothing = samples * table
    rows = torch.where(rows == IGNORE_INDEX, nothing, own * table + rows.int()).int()
    return labels, Polygons(rows, batch.shares.flatten(0, 1))
