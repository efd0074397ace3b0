"""Shared trunks of the multi-task benchmarks; the heads are one linear unit for each attribute."""

from torch import Tensor, nn


class OverlayTrunk(nn.Sequential):
    """Fully connected trunk: linear, batch norm and ReLU for each width; images are flattened.

    Args:
        inputs: number of pixels.
        widths: of the layers.
    """

    def __init__(self, inputs: int = 96, widths: tuple[int, ...] = (32, 32)) -> None:
        layers: list[nn.Module] = [nn.Flatten()]
        for width in widths:
            layers += [nn.Linear(inputs, width), nn.BatchNorm1d(width), nn.ReLU()]
            inputs = width
        super().__init__(*layers)
        self.features = inputs


class CelebATrunk(nn.Module):
    """The CelebA network of the FAMO code base, with 5,176,640 parameters at full width.

    3 x 3 convolutions 64 | 128, 128 | 256, 256 | 512, 512 (a bar is a max-pool of 2), global average, two linear
    layers of 512; all without bias and followed by batch norm and ReLU.

    Args:
        width: channels of the first convolution; 64 in the paper.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        before = 3
        for factor, depth in ((1, 1), (2, 2), (4, 2), (8, 2)):
            if blocks:
                blocks.append(nn.MaxPool2d(2))
            for _ in range(depth):
                after = width * factor
                blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
                before = after
        blocks += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        for _ in range(2):
            blocks += [nn.Linear(before, before, bias=False), nn.BatchNorm1d(before), nn.ReLU()]
        self.layers = nn.Sequential(*blocks)
        self.features = before

    def forward(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1] -> (B, 8 width)."""
        return self.layers(images)
