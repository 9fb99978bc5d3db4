"""Tells painted images from real ones, a small region at a time."""

from __future__ import annotations

from torch import Tensor, nn

from arcticseg.models.blocks import group_norm

# Channels grow with each halving, up to so many times the first.
_WIDEST = 8


class PatchDiscriminator(nn.Module):
    """A logit for each cell of `stride` x `stride` pixels: above 0 where it looks real.

    Convolutions as of the patch discriminator of Isola et al., "Image-to-Image Translation with Conditional Adversarial
    Networks", CVPR 2017, with GroupNorm: batch statistics would make a logit depend on other samples.

    Attributes:
        stride: edge of a cell.
    """

    def __init__(self, in_chans: int, channels: int, depth: int) -> None:
        """channels: after the first of `depth` halvings; twice as many after each further one, up to 8 times."""
        super().__init__()
        self.stride = 2**depth
        layers: list[nn.Module] = [nn.Conv2d(in_chans, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        before = channels
        for level in range(1, depth + 1):
            width = channels * min(2**level, _WIDEST)
            # The last sees its neighbours without another halving.
            kernel, stride = (4, 2) if level < depth else (3, 1)
            layers += [
                nn.Conv2d(before, width, kernel, stride=stride, padding=1, bias=False),
                group_norm(width),
                nn.LeakyReLU(0.2),
            ]
            before = width
        self.layers = nn.Sequential(*layers)
        # Without a bias: hinge losses of real and painted images pull it both ways alike, and Adam would follow what is
        # left, which is rounding.
        self.logit = nn.Conv2d(before, 1, 3, padding=1, bias=False)
        for part in self.modules():
            if isinstance(part, nn.Conv2d):
                nn.init.normal_(part.weight, std=0.02)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, C, H, W] -> logits [B, 1, H // stride, W // stride]."""
        logits: Tensor = self.logit(self.layers(images))
        return logits
