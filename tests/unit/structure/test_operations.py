"""Every kind of operation in a small network: what may go, and that taking it out is setting it to zero."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lomt.structure import trace_structure
from lomt.structure.operations import RULES
from tests.reference.pruning_laws import (
    assert_counts_hold,
    assert_pruned_equals_masked,
    liven,
    random_masks,
)


class Net(nn.Module):
    """Runs a function with layers of its own; whole numbers among them are attributes."""

    def __init__(self, run, **parts):
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, *features):
        return self.run(self, *features)


IMAGES = torch.randn(2, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
TOKENS = torch.randn(2, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def conv(inputs, outputs, kernel=1, **options):
    return nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, **options)


def around(middle, width=8, after=8, **parts):
    """A network that computes `width` channels `a`, runs `middle(net, a)`, and reads `after` channels by `z`."""
    run = lambda net, images: net.z(middle(net, net.a(images)))  # noqa: E731
    return Net(run, a=conv(3, width), z=conv(after, 2), **parts)


# By name: the network, its input, and how many channels of what may go.
EXACT = {
    "concat": (
        Net(
            lambda n, x: n.z(torch.cat([n.a(x), n.b(x), n.a(x)], 1)),
            a=conv(3, 4),
            b=conv(3, 6),
            z=conv(14, 2),
        ),
        IMAGES,
        {"a": 4, "b": 6},
    ),
    "stacked": (
        Net(
            lambda n, x: n.z(torch.stack([n.a(x), n.b(x)]).amax(0)), a=conv(3, 4), b=conv(3, 4), z=conv(4, 2)
        ),
        IMAGES,
        {"a": 4},
    ),
    "chunk and gate": (
        around(lambda n, x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1].sigmoid(), 8, 4),
        IMAGES,
        {"a": 4},
    ),
    "glu": (around(lambda n, x: F.glu(x, 1), 8, 4), IMAGES, {"a": 4}),
    "split by sizes kept": (
        around(
            lambda n, x: torch.cat([x.split(n.sizes, 1)[1].relu(), x.split(n.sizes, 1)[0]], 1), sizes=[3, 5]
        ),
        IMAGES,
        {"a": 3, "a/sizes": 5},
    ),
    "slice by a size kept": (
        around(lambda n, x: x[:, : n.first], after=5, first=5),
        IMAGES,
        {"a": 5, "a/2": 3},
    ),
    "narrow by a size kept": (
        around(lambda n, x: x.narrow(1, 0, n.first), after=5, first=5),
        IMAGES,
        {"a": 5, "a/2": 3},
    ),
    "flatten to linear": (
        Net(lambda n, x: n.z(n.a(x).flatten(1)), a=conv(3, 6), z=nn.Linear(96, 2)),
        IMAGES,
        {"a": 6},
    ),
    "squeeze and excite": (
        around(
            lambda n, x: x * n.up(F.relu(n.down(x.mean((2, 3), keepdim=True)))).sigmoid(),
            down=conv(8, 4),
            up=conv(4, 8),
        ),
        IMAGES,
        {"a": 8, "down": 4},
    ),
    "layer scale": (
        around(lambda n, x: x + n.scale[:, None, None] * x, scale=nn.Parameter(torch.ones(8))),
        IMAGES,
        {"a": 8},
    ),
    "position embedding": (
        Net(
            lambda n, x: n.z(n.a(x) + n.position),
            a=nn.Linear(4, 6),
            position=nn.Parameter(torch.zeros(1, 5, 6)),
            z=nn.Linear(6, 2),
        ),
        TOKENS,
        {"a": 6},
    ),
    "class token": (
        Net(
            lambda n, x: n.z(torch.cat([n.token.expand(len(x), -1, -1), n.a(x)], 1)[:, 0]),
            a=nn.Linear(4, 6),
            token=nn.Parameter(torch.zeros(1, 1, 6)),
            z=nn.Linear(6, 2),
        ),
        TOKENS,
        {"a": 6},
    ),
    "depthwise": (around(lambda n, x: n.d(x), d=conv(8, 8, 3, groups=8)), IMAGES, {"a": 8}),
    "depthwise with a multiplier": (
        around(lambda n, x: n.d(x), after=16, d=conv(8, 16, 3, groups=8)),
        IMAGES,
        {"a": 8, "d": 2},
    ),
    "grouped": (
        around(lambda n, x: n.g(x), g=conv(8, 12, 3, groups=4), after=12),
        IMAGES,
        {"a": 4, "a/2": 2, "g": 3},
    ),
    "transposed": (
        around(lambda n, x: n.t(x), t=nn.ConvTranspose2d(8, 6, 2, stride=2), after=6),
        IMAGES,
        {"a": 8, "t": 6},
    ),
    "grouped and transposed": (
        around(lambda n, x: n.t(x), t=nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2), after=6),
        IMAGES,
        {"a": 2, "a/2": 4, "t": 3},
    ),
    "pixel shuffle": (around(lambda n, x: F.pixel_shuffle(x, 2), 12, 3), IMAGES, {"a": 3}),
    "pixel unshuffle": (around(lambda n, x: F.pixel_unshuffle(x, 2), 4, 16), IMAGES, {"a": 4}),
    "pooling and resizing": (
        around(
            lambda n, x: F.interpolate(
                F.max_pool2d(x, 2) + F.avg_pool2d(x, 2) + F.adaptive_avg_pool2d(x, 2), (5, 5), mode="bilinear"
            )
        ),
        IMAGES,
        {"a": 8},
    ),
    "reflection padding": (around(lambda n, x: F.pad(x, (1, 1, 1, 1), mode="reflect")), IMAGES, {"a": 8}),
    "circular padding": (
        around(lambda n, x: n.c(x), c=conv(8, 8, 3, padding_mode="circular")),
        IMAGES,
        {"a": 8, "c": 8},
    ),
    "channels padded": (around(lambda n, x: F.pad(x, (0, 0, 0, 0, 1, 2)), after=11), IMAGES, {"a": 8}),
    "window unfolded": (
        around(lambda n, x: F.unfold(x, 3, padding=1).unflatten(2, (4, 4)), 3, 27),
        IMAGES,
        {"a": 3},
    ),
    "instance norm": (around(lambda n, x: n.n(x), n=nn.InstanceNorm2d(8, affine=True)), IMAGES, {"a": 8}),
    "prelu": (around(lambda n, x: n.p(x), p=nn.PReLU(8)), IMAGES, {"a": 8}),
    "written into zeros": (
        around(lambda n, x: _written(n, x), after=8),
        IMAGES,
        {"a": 8},
    ),
    "in place": (around(lambda n, x: x.add_(n.b(x)).relu_(), b=conv(8, 8)), IMAGES, {"a": 8}),
    "einsum": (
        Net(
            lambda n, x: torch.einsum("bnc,cd->bnd", n.a(x), n.w),
            a=nn.Linear(4, 6),
            w=nn.Parameter(torch.randn(6, 3)),
        ),
        TOKENS,
        {"a": 6},
    ),
    "tied weights": (
        Net(lambda n, x: F.linear(F.linear(x, n.w).relu(), n.w.t()), w=nn.Parameter(torch.randn(6, 4))),
        TOKENS,
        {"w": 6},
    ),
    "token mixing": (
        Net(
            lambda n, x: n.z(n.a(x) + n.up(n.down(n.a(x).transpose(1, 2)).relu()).transpose(1, 2)),
            a=nn.Linear(4, 6),
            down=nn.Linear(5, 8),
            up=nn.Linear(8, 5),
            z=nn.Linear(6, 2),
        ),
        TOKENS,
        {"a": 6, "down": 8},
    ),
    "norm of a vector": (
        Net(lambda n, x: n.z(n.a(x)[0].relu()), a=nn.Linear(4, 6), z=nn.Linear(6, 2)),
        TOKENS,
        {"a": 6},
    ),
    "one channel": (
        Net(lambda n, x: n.z(n.a(x) * n.gate(x).sigmoid()), a=conv(3, 6), gate=conv(3, 1), z=conv(6, 1)),
        IMAGES,
        {"a": 6},
    ),
    "mean over the batch": (around(lambda n, x: x - x.mean(0)), IMAGES, {"a": 8}),
    "3d": (
        Net(
            lambda n, x: n.z(n.a(x.unsqueeze(2)).relu()).squeeze(2),
            a=nn.Conv3d(3, 6, 1),
            z=nn.Conv3d(6, 2, 1),
        ),
        IMAGES,
        {"a": 6},
    ),
    "1d": (
        Net(lambda n, x: n.z(n.n(n.a(x))), a=nn.Conv1d(5, 6, 1), n=nn.BatchNorm1d(6), z=nn.Conv1d(6, 2, 1)),
        TOKENS,
        {"a": 6},
    ),
    "repeated": (around(lambda n, x: x.repeat(1, 2, 1, 1), 4, 8), IMAGES, {"a": 4}),
}


def _written(net, features):
    buffer = features.new_zeros(features.shape)
    buffer[:] = features
    return buffer


@pytest.mark.parametrize("name", EXACT)
def test_what_may_go_goes_as_if_it_were_zero_and_the_counts_hold(name):
    model, inputs, expected = EXACT[name]
    liven(model)
    structure = trace_structure(model, inputs)
    found = {own.name: own.count for own in structure.prunable}
    assert found == expected
    keep = random_masks(structure.prunable, torch.Generator().manual_seed(3))
    smaller = assert_pruned_equals_masked(model, inputs, structure, keep)
    assert_counts_hold(smaller, inputs, structure, keep)


LOSSY = {
    "layer norm": (
        Net(lambda n, x: n.z(n.n(n.a(x))), a=nn.Linear(4, 6), n=nn.LayerNorm(6), z=nn.Linear(6, 2)),
        TOKENS,
        {"a": "the normalisation `n`"},
    ),
    "rms norm": (
        Net(lambda n, x: n.z(n.n(n.a(x))), a=nn.Linear(4, 6), n=nn.RMSNorm(6), z=nn.Linear(6, 2)),
        TOKENS,
        {"a": None},
    ),
    "group norm": (
        around(lambda n, x: n.n(x), n=nn.GroupNorm(4, 8)),
        IMAGES,
        {"a/2": "the normalisation `n`"},
    ),
    "mean over channels": (
        around(lambda n, x: x * x.mean(1, keepdim=True)),
        IMAGES,
        {"a": "aten.mean in the network itself"},
    ),
    "product of two features": (
        Net(
            lambda n, x: n.z((n.a(x) @ n.a(x).transpose(1, 2)) @ n.b(x)),
            a=nn.Linear(4, 6),
            b=nn.Linear(4, 3),
            z=nn.Linear(3, 2),
        ),
        TOKENS,
        {"a": "a product of two features in the network itself"},
    ),
    "computed weights": (
        Net(
            lambda n, x: F.linear(n.a(x), n.w + n.u @ n.v),
            a=nn.Linear(4, 6),
            w=nn.Parameter(torch.randn(2, 6)),
            u=nn.Parameter(torch.randn(2, 3)),
            v=nn.Parameter(torch.randn(3, 6)),
        ),
        TOKENS,
        {"v": "computed weights in the network itself"},
    ),
    "learned queries": (
        Net(
            lambda n, x: n.z((n.q(n.latent) @ n.k(x).transpose(1, 2)).softmax(-1) @ n.k(x)),
            latent=nn.Parameter(torch.randn(1, 3, 4)),
            q=nn.Linear(4, 6),
            k=nn.Linear(4, 6),
            z=nn.Linear(6, 2),
        ),
        TOKENS,
        {"q": "computed weights in the network itself"},
    ),
    "standardised weights": (
        Net(
            lambda n, x: F.conv2d(n.a(x), n.w - n.w.mean(1, keepdim=True)),
            a=conv(3, 6),
            w=nn.Parameter(torch.randn(2, 6, 1, 1)),
        ),
        IMAGES,
        {"a": "aten.mean in the network itself"},
    ),
}


@pytest.mark.parametrize("name", LOSSY)
def test_what_mixes_channels_is_named_and_makes_their_removal_lossy(name):
    model, inputs, expected = LOSSY[name]
    structure = trace_structure(model.double(), inputs)
    mixed = {own.name: own.mixers for own in structure.prunable if own.mixers}
    assert list(mixed) == list(expected)
    for own, mixer in expected.items():
        assert mixer is None or mixer in mixed[own]
    assert not any(own.is_exact for own in structure.prunable if own.mixers)


def test_a_group_norm_may_lose_whole_groups_exactly():
    model = liven(around(lambda n, x: n.n(x), n=nn.GroupNorm(4, 8)))
    structure = trace_structure(model, IMAGES)
    groups = structure.by_name["a"]
    assert (groups.count, groups.is_exact) == (4, True)
    keep = {"a": torch.tensor([True, False, True, True])}
    smaller = assert_pruned_equals_masked(model, IMAGES, structure, keep)
    assert (smaller.n.num_groups, smaller.n.num_channels, smaller.a.out_channels) == (3, 6, 6)


PROTECTED = {
    "an operation without a rule": (
        around(lambda n, x: torch.linalg.qr(x).Q),
        "aten.linalg_qr in the network itself is not an operation that lomt knows",
    ),
    "softmax over channels": (
        around(lambda n, x: x.softmax(1)),
        "aten._softmax along channels in the network itself",
    ),
    "largest over channels": (
        around(lambda n, x: x * x.amax(1, keepdim=True)),
        "aten.amax along channels in the network itself",
    ),
    "single channels": (
        around(lambda n, x: x[:, 3:4] + x[:, [1, 2]].sum(1, keepdim=True) + x),
        "indexing in the network itself",
    ),
    "flipped": (around(lambda n, x: x.flip(1)), "aten.flip along channels in the network itself"),
    "a constant": (
        around(lambda n, x: x * torch.tensor([1.0] * 8, dtype=torch.float64).reshape(8, 1, 1)),
        "a constant made in the network itself",
    ),
    "numbers in order": (
        around(lambda n, x: x + torch.arange(8).reshape(8, 1, 1)),
        "aten.arange: numbers in their order in the network itself",
    ),
    "cropped": (around(lambda n, x: F.pad(x, (0, 0, 0, 0, -1, -1)), after=6), "cropped features"),
    "output": (
        Net(lambda n, x: (n.a(x), n.z(n.a(x))), a=conv(3, 8), z=conv(8, 2)),
        "output `0` of the network",
    ),
}


@pytest.mark.parametrize("name", PROTECTED)
def test_what_cannot_go_is_protected_with_its_reason(name):
    model, reason = PROTECTED[name]
    structure = trace_structure(model.double(), IMAGES)
    assert structure.by_name["a"].protected == reason


def test_every_rule_is_for_an_operation_of_torch():
    unknown = [name for name in RULES if not hasattr(torch.ops.aten, name)]
    assert unknown == []
