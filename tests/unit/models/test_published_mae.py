"""The masked autoencoder against the published one, written out here from the paper and the layout of its weights.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022. The functions below take weights by their
public names, and are plain arithmetic in float64: no module of the project or of timm takes part.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from torch import Tensor

from arcticseg.data.inputs import Inputs
from arcticseg.models.build import build_autoencoder, build_segmenter
from arcticseg.models.mae import MaskedAutoencoder, removed
from arcticseg.models.weights import load_encoder
from arcticseg.tasks.pretrain import Pretrain
from tests.networks import VIT, small
from tests.tensors import inputs_of

# Sizes: planes seen and reconstructed, edge of a tile and a patch, encoder and decoder.
PLANES, TARGETS, TILE, PATCH = 3, [0, 2], 32, 8
WIDTH, DEPTH, HEADS, DECODER_WIDTH, DECODER_DEPTH, DECODER_HEADS = 32, 4, 2, 16, 2, 4
PATCHES = (TILE // PATCH) ** 2
Weights = dict[str, Tensor]


def positions_of(width: int, edge: int) -> Tensor:
    """Codes of a grid, [1 + edge * edge, width], the class token's being 0."""
    across, down = np.meshgrid(np.arange(edge), np.arange(edge))  # columns first

    def code(coordinate: np.ndarray, channels: int) -> np.ndarray:
        frequency = 1 / 10000 ** (np.arange(channels // 2) / (channels / 2))
        angle = np.outer(coordinate.reshape(-1), frequency)
        return np.concatenate([np.sin(angle), np.cos(angle)], axis=1)

    codes = np.concatenate([code(across, width // 2), code(down, width // 2)], axis=1)
    return torch.from_numpy(np.concatenate([np.zeros((1, width)), codes]))


def public_weights() -> Weights:
    """Random weights under their public names, in float64."""
    random = np.random.default_rng(3)
    weights: Weights = {}

    def draw(name: str, *shape: int, around: float = 0.0) -> None:
        weights[name] = torch.from_numpy(around + 0.3 * random.standard_normal(shape))

    def linear(name: str, before: int, after: int) -> None:
        draw(f"{name}.weight", after, before)
        draw(f"{name}.bias", after)

    def norm(name: str, width: int) -> None:
        draw(f"{name}.weight", width, around=1.0)
        draw(f"{name}.bias", width)

    def blocks(name: str, width: int, depth: int) -> None:
        for i in range(depth):
            norm(f"{name}.{i}.norm1", width)
            linear(f"{name}.{i}.attn.qkv", width, 3 * width)
            linear(f"{name}.{i}.attn.proj", width, width)
            norm(f"{name}.{i}.norm2", width)
            linear(f"{name}.{i}.mlp.fc1", width, 4 * width)
            linear(f"{name}.{i}.mlp.fc2", 4 * width, width)

    draw("cls_token", 1, 1, WIDTH)
    weights["pos_embed"] = positions_of(WIDTH, TILE // PATCH)[None]
    draw("patch_embed.proj.weight", WIDTH, PLANES, PATCH, PATCH)
    draw("patch_embed.proj.bias", WIDTH)
    blocks("blocks", WIDTH, DEPTH)
    norm("norm", WIDTH)
    linear("decoder_embed", WIDTH, DECODER_WIDTH)
    draw("mask_token", 1, 1, DECODER_WIDTH)
    weights["decoder_pos_embed"] = positions_of(DECODER_WIDTH, TILE // PATCH)[None]
    blocks("decoder_blocks", DECODER_WIDTH, DECODER_DEPTH)
    norm("decoder_norm", DECODER_WIDTH)
    linear("decoder_pred", DECODER_WIDTH, PATCH * PATCH * len(TARGETS))
    return weights


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def norm(x: Tensor, weights: Weights, name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred / (variance + 1e-6) ** 0.5 * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def block(x: Tensor, weights: Weights, name: str, heads: int) -> Tensor:
    """x: [N, D], the tokens of one image."""
    q, k, v = linear(norm(x, weights, f"{name}.norm1"), weights, f"{name}.attn.qkv").chunk(3, dim=1)
    size = x.shape[1] // heads
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        mixed.append((q[:, part] @ k[:, part].T / math.sqrt(size)).softmax(dim=1) @ v[:, part])
    x = x + linear(torch.cat(mixed, dim=1), weights, f"{name}.attn.proj")
    hidden = linear(norm(x, weights, f"{name}.norm2"), weights, f"{name}.mlp.fc1")
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    return x + linear(hidden, weights, f"{name}.mlp.fc2")


def cut(image: Tensor) -> Tensor:
    """Image [C, H, W] -> patches [L, p * p * C], row by row; within a patch rows, columns, planes."""
    rows = range(0, image.shape[1], PATCH)
    windows = [image[:, top : top + PATCH, left : left + PATCH] for top in rows for left in rows]
    return torch.stack([window.permute(1, 2, 0).reshape(-1) for window in windows])


def predict(image: Tensor, kept: list[int], weights: Weights) -> Tensor:
    """What is painted for every patch of an image [C, H, W], [L, p * p * targets]."""
    kernel = weights["patch_embed.proj.weight"].permute(2, 3, 1, 0).reshape(-1, WIDTH)
    tokens = cut(image) @ kernel + weights["patch_embed.proj.bias"]
    tokens = tokens + weights["pos_embed"][0, 1:]
    first = weights["cls_token"][0] + weights["pos_embed"][0, :1]
    x = torch.cat([first, tokens[kept]])
    for i in range(DEPTH):
        x = block(x, weights, f"blocks.{i}", HEADS)
    x = linear(norm(x, weights, "norm"), weights, "decoder_embed")
    every = weights["mask_token"][0].repeat(PATCHES, 1)
    for token, patch in zip(x[1:], kept, strict=True):
        every[patch] = token
    x = torch.cat([x[:1], every]) + weights["decoder_pos_embed"][0]
    for i in range(DECODER_DEPTH):
        x = block(x, weights, f"decoder_blocks.{i}", DECODER_HEADS)
    return linear(norm(x, weights, "decoder_norm"), weights, "decoder_pred")[1:]


def loss_of(prediction: Tensor, image: Tensor, valid: Tensor, kept: list[int], normalise: bool) -> tuple[float, int]:
    """Sum of squared errors over the valid values of removed patches of an image, and their number."""
    total, count = 0.0, 0
    targets = zip(cut(image[TARGETS]), cut(valid[TARGETS]), strict=True)
    for patch, (target, there) in enumerate(targets):
        values = target[there]
        if patch in kept or len(values) < (2 if normalise else 1):
            continue
        if normalise:
            values = (values - values.mean()) / (values.var(unbiased=True) + 1e-6) ** 0.5
        total += float(((prediction[patch][there] - values) ** 2).sum())
        count += len(values)
    return total, count


def from_public(weights: Weights) -> Weights:
    """The project's names for public ones; the decoder's positions are a function of its sizes."""
    own = ("decoder_", "mask_token")
    return {
        name if name.startswith(own) else f"encoder.{name}": value.float()
        for name, value in weights.items()
        if name != "decoder_pos_embed"
    }


@pytest.fixture(scope="module")
def weights() -> Weights:
    return public_weights()


@pytest.fixture(scope="module")
def mae() -> MaskedAutoencoder:
    sizes = {"decoder_dim": DECODER_WIDTH, "decoder_depth": DECODER_DEPTH, "decoder_heads": DECODER_HEADS}
    torch.manual_seed(0)
    return build_autoencoder(small("light", encoder=VIT), PLANES, TILE, len(TARGETS), **sizes)


@pytest.fixture(scope="module", params=["whole", "with holes"])
def inputs(request: pytest.FixtureRequest) -> Inputs:
    """Three samples; with holes: scattered ones, a patch of few values, one of one, one of none."""
    torch.manual_seed(1)
    x, data = torch.randn(3, PLANES, TILE, TILE) + 1, torch.ones(3, PLANES, TILE, TILE, dtype=torch.bool)
    if request.param == "with holes":
        data = torch.rand(3, PLANES, TILE, TILE) > 0.3
        for column, values in enumerate((3, 1, 0)):
            data[:, :, :PATCH, column * PATCH : (column + 1) * PATCH] = False
            data[:, 2, 0, column * PATCH : column * PATCH + values] = True
    return inputs_of(x * data, torch.full((3, 3, TILE, TILE), 255, dtype=torch.uint8), data)


def test_positions_are_the_published_ones(mae: MaskedAutoencoder) -> None:
    for codes, width in ((mae.encoder.pos_embed, WIDTH), (mae.decoder_pos_embed, DECODER_WIDTH)):
        torch.testing.assert_close(codes[0].double(), positions_of(width, TILE // PATCH), rtol=0, atol=1e-7)
    # Row 1, column 0: the first half of the channels, the column's, is that of 0.
    assert mae.decoder_pos_embed[0, 1 + TILE // PATCH, 0] == 0
    assert mae.decoder_pos_embed[0, 1 + TILE // PATCH, DECODER_WIDTH // 2] == pytest.approx(math.sin(1))


@pytest.mark.parametrize("normalise", [False, True])
def test_prediction_and_loss_from_public_weights(
    mae: MaskedAutoencoder, weights: Weights, inputs: Inputs, normalise: bool
) -> None:
    assert not mae.load_state_dict(from_public(weights)).missing_keys
    task = Pretrain(TARGETS, PATCH, 0.75, seed=4, normalise=normalise)
    kept = task.draw(inputs.place.tolist(), TILE)
    predictions, mask = mae(inputs.seen, kept)
    assert torch.equal(mask, removed(kept, PATCHES))
    total, count = 0.0, 0
    for image, valid, own, prediction in zip(inputs.x.double(), inputs.data, kept.tolist(), predictions, strict=True):
        expected = predict(image, own, weights)
        torch.testing.assert_close(prediction.double(), expected, rtol=1e-5, atol=1e-5)
        error, number = loss_of(expected, image, valid, own, normalise)
        total, count = total + error, count + number
    assert task.counts(inputs).tolist() == [count]
    assert float(task.sums(mae, inputs).detach()) / count == pytest.approx(total / count, rel=1e-5)


def test_gradients_are_those_of_the_published_loss(mae: MaskedAutoencoder, weights: Weights, inputs: Inputs) -> None:
    one = Inputs(*(getattr(inputs, name)[:1] for name in ("place", "x", "data", "dropped", "labels")))
    mae.load_state_dict(from_public(weights))
    task = Pretrain(TARGETS, PATCH, 0.75, seed=4)
    mae.zero_grad()
    task.sums(mae, one).sum().backward()
    learned = {name: value.clone().requires_grad_() for name, value in weights.items()}
    (kept,) = task.draw([0], TILE).tolist()
    painted = predict(one.x[0].double(), kept, learned)
    weight = removed(torch.tensor([kept]), PATCHES)[0, :, None] * cut(one.data[0, TARGETS].double())
    ((painted - cut(one.x[0, TARGETS].double())) ** 2 * weight).sum().backward()
    grads = {name: value.grad for name, value in mae.named_parameters() if value.requires_grad}
    for name, value in from_public({name: value.grad for name, value in learned.items()}).items():
        if name == "encoder.pos_embed":
            assert name not in grads
        else:
            torch.testing.assert_close(grads[name], value, rtol=1e-3, atol=1e-4 * float(value.abs().max()))


def test_fine_tuning_starts_from_the_fixed_positions_and_learns_on(mae: MaskedAutoencoder) -> None:
    segmenter = build_segmenter(small("light", encoder=VIT), PLANES, TILE)
    load_encoder(segmenter, mae.state_dict(), "mae.safetensors")
    assert torch.equal(segmenter.encoder.pos_embed, mae.encoder.pos_embed)
    assert segmenter.encoder.pos_embed.requires_grad
    assert not mae.encoder.pos_embed.requires_grad
    assert "decoder_pos_embed" not in mae.state_dict()


def test_other_sizes_have_codes_of_their_own_grid(mae: MaskedAutoencoder) -> None:
    wide = torch.randn(1, PLANES, TILE, 2 * TILE)
    prediction, mask = mae(wide, torch.rand(1, 2 * PATCHES), 0.75)
    assert prediction.shape[1] == mask.shape[1] == 2 * PATCHES
    assert torch.isfinite(prediction).all()


def test_every_norm_has_the_published_epsilon(mae: MaskedAutoencoder) -> None:
    norms = [module for module in mae.modules() if isinstance(module, torch.nn.LayerNorm)]
    assert len(norms) == 2 * (DEPTH + DECODER_DEPTH) + 2
    assert {module.eps for module in norms} == {1e-6}
