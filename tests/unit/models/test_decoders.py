import pytest
import torch
from torch import nn
from torchvision.models.segmentation.deeplabv3 import DeepLabHead

from lomt.errors import UnknownNameError
from lomt.models import DecoderSpec, build_decoder


def test_aspp_is_torchvisions_head_at_its_width():
    ours = build_decoder(DecoderSpec("aspp", width=256, rates=(12, 24, 36)), 8, 5, is_dense=True).eval()
    theirs = DeepLabHead(8, 5).eval()
    names = {"aspp": "0", "conv": "1", "norm": "2", "head": "4"}
    entries = {
        names[part] + "." + rest: value
        for part, _, rest, value in ((*key.partition("."), value) for key, value in ours.state_dict().items())
    }
    theirs.load_state_dict(entries)
    features = torch.randn(2, 8, 6, 9)

    assert torch.equal(ours(features), theirs(features))


def test_width_and_rates_shape_the_pyramid():
    decoder = build_decoder(DecoderSpec("aspp", width=6, rates=(2, 3)), 4, 1, is_dense=True)

    convolutions = [module for module in decoder.modules() if isinstance(module, nn.Conv2d)]
    assert [c.dilation[0] for c in convolutions] == [1, 2, 3, 1, 1, 1, 1]
    assert [c.out_channels for c in convolutions] == [6, 6, 6, 6, 6, 6, 1]
    assert convolutions[4].in_channels == 4 * 6


@pytest.mark.parametrize("kind", ["aspp", "linear"])
def test_dense_decoders_keep_the_features_resolution(kind):
    decoder = build_decoder(DecoderSpec(kind, width=8), 4, 3, is_dense=True)

    assert decoder(torch.randn(2, 4, 5, 7)).shape == (2, 3, 5, 7)


@pytest.mark.parametrize(
    "spec", [DecoderSpec("linear"), DecoderSpec("classifier", hidden_width=6)], ids=["linear", "hidden"]
)
def test_decoders_of_images_give_one_answer_each(spec):
    decoder = build_decoder(spec, 4, 3, is_dense=False)

    assert decoder(torch.randn(2, 4, 5, 7)).shape == (2, 3)


def test_a_classifier_projects_the_mean_over_pixels():
    decoder = build_decoder(DecoderSpec("classifier"), 4, 3, is_dense=False)
    features = torch.randn(2, 4, 5, 7)

    expected = nn.functional.linear(features.mean((2, 3)), decoder.head.weight, decoder.head.bias)

    torch.testing.assert_close(decoder(features), expected)


def test_a_hidden_layer_has_its_width():
    decoder = build_decoder(DecoderSpec("classifier", hidden_width=6), 4, 3, is_dense=False)

    assert [p.shape for p in decoder.parameters()] == [(6, 4), (6,), (3, 6), (3,)]


@pytest.mark.parametrize(
    ("spec", "is_dense"),
    [
        (DecoderSpec("aspp", dropout=0.25), True),
        (DecoderSpec("linear", dropout=0.25), True),
        (DecoderSpec("classifier", dropout=0.25), False),
    ],
    ids=["aspp", "linear", "classifier"],
)
def test_dropout_is_the_one_asked_for(spec, is_dense):
    decoder = build_decoder(spec, 4, 3, is_dense)

    assert [module.p for module in decoder.modules() if isinstance(module, nn.Dropout)] == [0.25]


def test_one_image_in_train_mode_is_refused_with_the_way_out():
    decoder = build_decoder(DecoderSpec("aspp", width=8), 4, 3, is_dense=True)

    message = (
        "Expected a batch of at least 2 images in train mode, because the ASPP decoder normalises "
        "pooled features over the batch, but got 1. Leave out a last batch of one image, or set "
        "`pooling_norm` of the decoder to false"
    )
    with pytest.raises(ValueError, match=message):
        decoder(torch.randn(1, 4, 5, 7))
    assert decoder.eval()(torch.randn(1, 4, 5, 7)).shape == (1, 3, 5, 7)


def test_one_image_trains_without_pooling_norm():
    decoder = build_decoder(DecoderSpec("aspp", width=8, pooling_norm=False), 4, 3, is_dense=True)

    decoder(torch.randn(1, 4, 5, 7)).sum().backward()

    assert decoder.aspp.convs[-1][1].bias.grad is not None


@pytest.mark.parametrize(
    ("kind", "is_dense", "message"),
    [
        (
            "aspp",
            False,
            "a task with one prediction per image to be `linear` or `classifier`, but got `aspp`",
        ),
        (
            "classifier",
            True,
            "a task with a prediction for every pixel to be `aspp` or `linear`, but got `classifier`",
        ),
    ],
)
def test_kinds_that_do_not_fit_the_task(kind, is_dense, message):
    with pytest.raises(ValueError, match=f"Expected the decoder of {message}"):
        build_decoder(DecoderSpec(kind), 4, 3, is_dense)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "Expected `width` of a decoder to be at least 1, but got 0"),
        ({"hidden_width": 0}, "Expected `hidden_width` of a decoder to be at least 1, but got 0"),
        ({"rates": ()}, r"Expected `rates` of a decoder to be dilations of at least 1, but got \(\)"),
        ({"rates": (0, 6)}, r"Expected `rates` of a decoder to be dilations of at least 1, but got \(0, 6\)"),
        ({"dropout": 1.0}, r"Expected `dropout` of a decoder to be in \[0, 1\), but got 1.0"),
    ],
    ids=["width", "hidden_width", "no_rates", "rate_0", "dropout"],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ValueError, match=message):
        DecoderSpec(**settings)


def test_unknown_kind_is_named():
    with pytest.raises(UnknownNameError, match="Unknown decoder `asp`, did you mean `aspp`"):
        DecoderSpec("asp")
