"""Multitask models as users write them: no class, no name and no convention of lomt's."""

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    """A residual block."""

    def __init__(self, channels: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x):
        """Add what two convolutions make of the input to it."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + shortcut)


class Encoder(nn.Module):
    """A small ResNet that returns the features of its stages."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = nn.Sequential(Block(width, width), Block(width, width))
        self.layer2 = nn.Sequential(Block(width, 2 * width, 2), Block(2 * width, 2 * width))
        self.layer3 = nn.Sequential(Block(2 * width, 4 * width, 2), Block(4 * width, 4 * width))
        self.channels = (width, width, 2 * width, 4 * width)

    def forward(self, images):
        """Return features at strides 2, 2, 4 and 8."""
        height, width = images.shape[-2:]
        if height % 8 or width % 8:
            raise RuntimeError(f"sizes must be multiples of 8, but got {height}x{width}")
        features = [self.stem(images)]
        for layer in (self.layer1, self.layer2, self.layer3):
            features.append(layer(features[-1]))
        return features


def head(channels: int, out: int) -> nn.Sequential:
    """Two convolutions."""
    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, out, 1)
    )


class DeepHeads(nn.Module):
    """Every head reads the deepest features only; a dictionary by task comes out."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.heads = nn.ModuleDict({"parts": head(4 * width, classes), "depth": head(4 * width, 1)})

    def forward(self, images):
        """Predict at the size of the images."""
        deepest = self.encoder(images)[-1]
        return {
            name: functional.interpolate(
                own(deepest), size=images.shape[-2:], mode="bilinear", align_corners=False
            )
            for name, own in self.heads.items()
        }


class Picky(nn.Module):
    """A head that is given all features and reads one."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, 1)

    def forward(self, features):
        """Predict at the size of that one."""
        return self.conv(features[2])


class PickyHeads(nn.Module):
    """Heads that read less than they are given."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.parts, self.depth = Picky(2 * width, 5), Picky(2 * width, 1)

    def forward(self, images):
        """Predict at a quarter of the size."""
        features = self.encoder(images)
        return {"parts": self.parts(features), "depth": self.depth(features)}


class Up(nn.Module):
    """A step of a U-Net's decoder."""

    def __init__(self, channels: int, skip: int, out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels + skip, out, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x, skip):
        """Enlarge and put the skipped features beside."""
        x = functional.interpolate(x, size=skip.shape[-2:])
        return functional.relu(self.bn(self.conv(torch.cat([x, skip], 1))))


class UpPath(nn.Module):
    """A U-Net's decoder."""

    def __init__(self, channels) -> None:
        super().__init__()
        deep, *skips = list(channels)[::-1]
        self.ups = nn.ModuleList(Up(a, b, b) for a, b in zip([deep, *skips], skips, strict=False))

    def forward(self, features):
        """Go from the deepest to the finest features."""
        x, *skips = features[::-1]
        for up, skip in zip(self.ups, skips, strict=True):
            x = up(x, skip)
        return x


class TwoUNets(nn.Module):
    """An encoder with a U-Net decoder for each task; a tuple comes out."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.up_parts, self.up_depth = UpPath(self.encoder.channels), UpPath(self.encoder.channels)
        self.parts, self.depth = nn.Conv2d(width, classes, 1), nn.Conv2d(width, 1, 1)

    def forward(self, images):
        """Predict at half the size."""
        features = self.encoder(images)
        return self.parts(self.up_parts(features)), self.depth(self.up_depth(features))


class PlainBlock(nn.Module):
    """A convolution and what follows it."""

    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(*channels, 3, padding=1)

    def forward(self, features):
        """Go on."""
        return torch.relu(self.conv(features))


class Narrow(nn.Module):
    """Little goes through its second block, and its third goes on from both before it."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        self.first, self.second, self.third = PlainBlock(3, 6), PlainBlock(6, 1), PlainBlock(7, 6)
        self.parts, self.depth = nn.Conv2d(1, classes, 1), nn.Conv2d(6, 1, 1)

    def forward(self, images):
        """Predict at full size."""
        first = self.first(images)
        second = self.second(first)
        third = self.third(torch.cat([first, second], 1))
        return self.parts(second), self.depth(third)


class SharedUNet(nn.Module):
    """A whole U-Net that two tasks share, up to their last convolution."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.decoder = UpPath(self.encoder.channels)
        self.last = nn.ModuleDict({"parts": nn.Conv2d(width, classes, 1), "depth": nn.Conv2d(width, 1, 1)})

    def forward(self, images):
        """Predict at half the size."""
        shared = self.decoder(self.encoder(images))
        return {name: own(shared) for name, own in self.last.items()}


class TwoInputs(nn.Module):
    """Images and a prior of the depth."""

    def __init__(self, width: int = 8, classes: int = 5) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.fuse = nn.Conv2d(4 * width + 1, 4 * width, 1)
        self.heads = nn.ModuleDict({"parts": head(4 * width, classes), "depth": head(4 * width, 1)})

    def forward(self, images, prior):
        """Predict at an eighth of the size."""
        deepest = self.encoder(images)[-1]
        prior = functional.adaptive_avg_pool2d(prior, deepest.shape[-2:])
        fused = self.fuse(torch.cat([deepest, prior], 1))
        return {name: own(fused) for name, own in self.heads.items()}


class SceneAndDepth(nn.Module):
    """One task with a prediction for every pixel, and one that reads pooled features."""

    def __init__(self, width: int = 8, classes: int = 4) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.depth, self.scene = head(4 * width, 1), nn.Linear(4 * width, classes)

    def forward(self, images, is_verbose=False):
        """Predict."""
        deepest = self.encoder(images)[-1]
        return {"depth": self.depth(deepest), "scene": self.scene(deepest.mean((2, 3)))}


class ValueDependent(nn.Module):
    """An encoder in which one block looks at the values it computes."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.encoder.layer2 = Choosing(width)
        self.heads = nn.ModuleDict({"parts": head(4 * width, 5), "depth": head(4 * width, 1)})

    def forward(self, images):
        """Predict at an eighth of the size."""
        deepest = self.encoder(images)[-1]
        return {name: own(deepest) for name, own in self.heads.items()}


class Choosing(nn.Module):
    """Two blocks, the second of which runs where the first one's output asks for it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = Block(width, 2 * width, 2), Block(2 * width, 2 * width)

    def forward(self, x):
        """Run one block or both."""
        x = self.first(x)
        return self.second(x) if x.mean() > -1 else x


class Separate(nn.Module):
    """Two tasks that share nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = head(3, 5), head(3, 1)

    def forward(self, images):
        """Predict at the size of the images."""
        return {"parts": self.a(images), "depth": self.b(images)}


class NoTensor(nn.Module):
    """A model whose own forward looks at values."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.head = Encoder(), head(32, 1)

    def forward(self, images):
        """Predict, unless the images are dark."""
        if images.mean() < 0:
            images = -images
        return {"depth": self.head(self.encoder(images)[-1])}


class PostProcessing(nn.Module):
    """A model that also returns its loss and labels, and nests its predictions."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encoder = Encoder(width)
        self.parts, self.depth = head(4 * width, 5), head(4 * width, 1)

    def forward(self, images, targets=None):
        """Predict at an eighth of the size; with targets, also say how wrong that is."""
        deepest = self.encoder(images)[-1]
        logits, depth = self.parts(deepest), self.depth(deepest)
        found = {"labels": logits.argmax(1), "raw": [logits, depth], "total": logits.mean() + depth.mean()}
        if targets is not None:
            found["loss"] = (depth - targets).abs().mean()
        return found


class NewHead(nn.Module):
    """A decoder for any layer."""

    def __init__(self, channels: int, reduction: int, out_channels: int) -> None:
        super().__init__()
        self.last = nn.Conv2d(channels, out_channels, 1)
        self.reduction = reduction

    def forward(self, features):
        """Predict at the size of the features."""
        return self.last(features)


class WrongHead(NewHead):
    """A decoder with a channel too many."""

    def __init__(self, channels: int, reduction: int, out_channels: int) -> None:
        super().__init__(channels, reduction, out_channels + 1)
