"""A backbone of one's own. Try: bmtas --plugin examples/own_backbone.py search --backbone small_net --data planted --dry-run."""

from torch import Tensor, nn

from bmtas.adapters import register_backbone


class Block(nn.Module):
    """A 3x3 convolution with normalisation: the place where the network can be cut is between two of these."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm, self.relu = nn.BatchNorm2d(outputs), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, inputs, H, W) to (N, outputs, H/stride, W/stride)."""
        return self.relu(self.norm(self.conv(x)))


class SmallNet(nn.Module):
    """A classifier as anybody may have it: features, a mean over all places, a linear layer."""

    def __init__(self, widths: tuple[int, ...] = (16, 24, 24, 48, 48, 96)) -> None:
        super().__init__()
        steps = zip((3, *widths), widths, (2, 2, 1, 2, 1, 2), strict=False)
        self.features = nn.Sequential(*(Block(*step) for step in steps))
        self.classifier = nn.Linear(widths[-1], 10)

    def forward(self, image: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, 10)."""
        return self.classifier(self.features(image).mean((2, 3)))


register_backbone("small_net", SmallNet)
