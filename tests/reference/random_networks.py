"""Random networks with two outputs, written as short programs, so that a failing one can be read and shrunk."""

from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

KINDS = (
    "conv",
    "residual",
    "bottleneck",
    "concat",
    "split",
    "chunk_gate",
    "depthwise",
    "grouped",
    "transposed",
    "shared",
    "squeeze_excite",
    "layer_scale",
    "shuffle",
    "pixel_shuffle",
    "tokens",
    "pool",
    "slice",
    "pad",
)
"""What a step may be."""

SIZE = 4
"""Height and width of all feature maps."""


@dataclass(frozen=True)
class Step:
    """One line of the program.

    Args:
        kind: What it does.
        first: Which of the maps so far it reads, counted from the last.
        second: Another one, for kinds that read two.
        width: Channels it computes, where it is free to choose.
        option: A variation.
    """

    kind: str
    first: int
    second: int
    width: int
    option: int


def programs(most=6):
    """Strategy of programs."""
    step = st.builds(
        Step,
        st.sampled_from(KINDS),
        st.integers(0, 3),
        st.integers(0, 3),
        st.integers(1, 4),
        st.integers(0, 3),
    )
    return st.lists(step, min_size=1, max_size=most).map(tuple)


class RandomNetwork(nn.Module):
    """Runs a program on an image; the outputs are a map and a vector.

    Args:
        program: Steps; each appends one map, or several.
    """

    def __init__(self, program):
        super().__init__()
        self.program = program
        self.layers = nn.ModuleDict()
        self.scales = nn.ParameterDict()
        widths = [4]
        self.stem = _conv_norm(3, 4)
        self._shared, self._reused = {}, {}
        for place, step in enumerate(program):
            self._build(str(place), step, widths)
        self.head = nn.Conv2d(widths[-1], 1, 1)
        other = widths[-min(2, len(widths))]
        self.classify = nn.Linear(other * SIZE * SIZE, 3)

    def _pick(self, values, which):
        return values[-1 - which % len(values)]

    def _build(self, name, step, widths):
        own, other = self._pick(widths, step.first), self._pick(widths, step.second)
        wide = 2 * step.width
        kind = step.kind
        if kind == "conv":
            self.layers[name] = _conv_norm(own, wide, 3 if step.option % 2 else 1)
            widths.append(wide)
        elif kind == "residual":
            self.layers[name] = _conv_norm(own, other)
            widths.append(other)
        elif kind == "bottleneck":
            self.layers[name] = nn.Sequential(_conv_norm(own, wide), _conv_norm(wide, own))
            widths.append(own)
        elif kind == "concat":
            widths.append(own + other)
        elif kind == "split":
            if own > 1:
                left = 1 + step.option % (own - 1)
                self.layers[name] = Split(left, own - left)
                widths += [left, own - left]
        elif kind == "chunk_gate":
            self.layers[name] = nn.Conv2d(own, 2 * wide, 1)
            widths.append(wide)
        elif kind == "depthwise":
            times = 1 + step.option % 2
            self.layers[name] = _conv_norm(own, own * times, 3, groups=own)
            widths.append(own * times)
        elif kind == "grouped":
            groups = 2 if own % 2 == 0 else 1
            self.layers[name] = _conv_norm(own, wide, 3, groups=groups)
            widths.append(wide)
        elif kind == "transposed":
            groups = 2 if own % 2 == 0 and step.option % 2 else 1
            self.layers[name] = nn.ConvTranspose2d(own, wide, 3, padding=1, groups=groups)
            widths.append(wide)
        elif kind == "shared":
            layer = self._shared.get(own)
            if layer is None:
                layer = self._shared[own] = (name, wide)
                self.layers[name] = _conv_norm(own, wide)
            self._reused[name] = layer[0]
            widths.append(layer[1])
        elif kind == "squeeze_excite":
            self.layers[name] = nn.Sequential(nn.Conv2d(own, wide, 1), nn.ReLU(), nn.Conv2d(wide, own, 1))
            widths.append(own)
        elif kind == "layer_scale":
            self.scales[name] = nn.Parameter(torch.ones(own, 1, 1))
            widths.append(own)
        elif kind == "pixel_shuffle":
            self.layers[name] = nn.Conv2d(4 * own, 4 * step.width, 1)
            widths.append(step.width)
        elif kind == "tokens":
            self.layers[name] = nn.Sequential(nn.Linear(own, wide), nn.GELU(), nn.Linear(wide, own))
            widths.append(own)
        elif kind == "slice":
            self.layers[name] = Slice(max(own - step.option, 1))
            widths.append(self.layers[name].stop)
        elif kind == "pad":
            widths.append(own + step.option)
        elif kind == "shuffle":
            if own % 2 == 0:
                self.layers[name] = Shuffle()
            widths.append(own)
        else:
            widths.append(own)

    def forward(self, images):
        maps = [self.stem(images)]
        for place, step in enumerate(self.program):
            self._run(str(place), step, maps)
        other = maps[-min(2, len(maps))]
        return {"map": self.head(maps[-1]), "label": self.classify(other.flatten(1))}

    def _run(self, name, step, maps):
        own, other = self._pick(maps, step.first), self._pick(maps, step.second)
        layer = self.layers[name] if name in self.layers else None  # noqa: SIM401
        kind = step.kind
        if kind == "residual":
            maps.append(other + layer(own))
        elif kind == "bottleneck":
            maps.append((own + layer(own)).relu())
        elif kind == "concat":
            maps.append(torch.cat([own, other], dim=1))
        elif kind == "split":
            if layer is not None:
                maps += layer(own)
        elif kind == "chunk_gate":
            values, gate = layer(own).chunk(2, dim=1)
            maps.append(values * gate.sigmoid())
        elif kind == "shared":
            maps.append(self.layers[self._reused[name]](own))
        elif kind == "squeeze_excite":
            maps.append(own * layer(F.adaptive_avg_pool2d(own, 1)).sigmoid())
        elif kind == "layer_scale":
            maps.append(self.scales[name] * own)
        elif kind == "shuffle":
            maps.append(own if layer is None else layer(own))
        elif kind == "pixel_shuffle":
            maps.append(F.pixel_shuffle(layer(F.pixel_unshuffle(own, 2)), 2))
        elif kind == "tokens":
            maps.append(own + layer(own.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        elif kind == "pool":
            maps.append(F.max_pool2d(own, 3, stride=1, padding=1))
        elif kind == "pad":
            maps.append(F.pad(own, (0, 0, 0, 0, 0, step.option)))
        else:
            maps.append(layer(own))


class Split(nn.Module):
    """Cuts a map in two."""

    def __init__(self, left, right):
        super().__init__()
        self.sizes = (left, right)

    def forward(self, features):
        return features.split(self.sizes, dim=1)


class Slice(nn.Module):
    """Takes the first channels of a map."""

    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def forward(self, features):
        return features[:, : self.stop]


class Shuffle(nn.Module):
    """Mixes the order of two halves; that there are two stands in the code, so the halves cannot go."""

    def forward(self, features):
        batch, channels, height, width = features.shape
        halves = features.reshape(batch, 2, channels // 2, height, width)
        return halves.transpose(1, 2).reshape(batch, channels, height, width)


def example_images(seed=0):
    """Two images."""
    return torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _conv_norm(inputs, outputs, kernel=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
