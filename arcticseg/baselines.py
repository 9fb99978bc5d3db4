"""What a network must beat: a logistic regression of single pixels on HH, HV and incidence angle."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arcticseg.data import manifest as manifests
from arcticseg.data.order import generator
from arcticseg.data.reader import SampleReader
from arcticseg.data.select import select
from arcticseg.data.tile import SAR_LOW, Tile, decode_sar, interpolation_matrix
from arcticseg.ice.channels import CHANNELS, SAR
from arcticseg.ice.classes import most_likely, rounded
from arcticseg.ice.geo import interpolate
from arcticseg.ice.layers import Layers
from arcticseg.ice.sigrid import CHARTS, IGNORE_INDEX, N_CLASSES

LOGISTIC = "logistic regression on HH, HV, incidence angle"
MAJORITY = "majority class"

# What is drawn for the fit, at most.
_PIXELS = 60_000
_TILES = 400


@dataclass(frozen=True)
class LogisticBaseline:
    """Fitted classifiers of the three charts, and the factor of the pixels that they are fitted to."""

    models: dict[str, Any]
    factor: int

    @property
    def classes(self) -> dict[str, Callable[[NDArray[np.float32]], NDArray[np.uint8]]]:
        """Chart -> what makes classes of its field."""
        return {"SIC": partial(rounded, chart="SIC"), "SOD": most_likely, "FLOE": most_likely}

    def fields(self, layers: Layers) -> dict[str, NDArray[np.float32]]:
        """Chart -> class probabilities, float32 [K, H, W]; SIC as its expected class [1, H, W], which suits R2."""
        step = layers.step
        rows, cols = (np.arange(n) * step + (step - 1) / 2 for n in layers.shape)
        _, _, incidence = interpolate(layers.geo, rows, cols)
        features = _features(layers.sar["hh"], layers.sar["hv"], incidence).reshape(-1, 3)
        fields = {}
        for chart, model in self.models.items():
            probabilities = np.zeros((N_CLASSES[chart], len(features)), np.float32)
            probabilities[model.classes_.astype(int)] = model.predict_proba(features).T
            if chart == "SIC":
                probabilities = (probabilities * np.arange(N_CLASSES[chart])[:, None]).sum(0, keepdims=True)
            fields[chart] = probabilities.reshape(-1, *layers.shape)
        return fields


def _features(hh: NDArray, hv: NDArray, incidence: NDArray) -> NDArray[np.float32]:
    """[..., 3], normalised with the published statistics; 0 where there is no data."""
    planes = []
    for name, values in ((SAR["hh"], hh), (SAR["hv"], hv), ("sar_incidenceangle", incidence)):
        # Zero power is -inf dB; the lowest stored value replaces it, as in a sample.
        finite = np.where(np.isneginf(values), SAR_LOW, values)
        planes.append(np.nan_to_num((finite - CHANNELS[name].mean) / CHANNELS[name].std))
    return np.stack(planes, axis=-1).astype(np.float32)


def _pixels(tile: Tile) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Features [N, 3] and labels [N, 3] of the valid pixels of a tile."""
    size = tile.hh.shape[0]
    rows, cols = (interpolation_matrix(points, size, clamp=False) for points in (tile.geo_rows, tile.geo_cols))
    features = _features(decode_sar(tile.hh), decode_sar(tile.hv), rows @ tile.geo[2] @ cols.T)
    assert tile.lab is not None
    return features[tile.valid], tile.lab[:, tile.valid].T


def fit_logistic(shards: Path, factor: int, seed: int = 0) -> LogisticBaseline:
    """Fit on pixels drawn from the training tiles at a factor.

    Raises:
        ConfigError, ShardError: the shards hold no labelled training tile at that factor, or are damaged.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    selection = select(shards, manifests.read_manifest(shards), "train", [factor], labelled=True)
    random = generator("baseline", selection.fingerprint, seed)
    reader = SampleReader(selection)
    chosen = random.permutation(len(selection))[:_TILES]
    pixels = []
    for number in chosen:
        features, labels = _pixels(reader.read(int(number)))
        kept = random.permutation(len(features))[: _PIXELS // len(chosen) + 1]
        pixels.append((features[kept], labels[kept]))
    reader.close()
    features, labels = (np.concatenate(parts) for parts in zip(*pixels, strict=True))
    models = {}
    for i, chart in enumerate(CHARTS):
        labelled = labels[:, i] != IGNORE_INDEX
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            models[chart] = LogisticRegression(max_iter=200).fit(features[labelled], labels[labelled, i])
    return LogisticBaseline(models, factor)
