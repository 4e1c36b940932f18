import pytest

from lomt.deploy import ProviderError
from lomt.deploy.latency_profile import _layer_times, check_profile, profile_layers
from tests.unit.deploy.networks import write_conv_network

FOUND = [
    {"name": "stem", "kind": "Conv", "ms": 1.0},
    {"name": "up", "kind": "Resize", "ms": 3.0},
    {"name": "head", "kind": "Conv", "ms": 4.0},
]


def test_layers_are_sorted_and_shares_add_up():
    times = _layer_times(FOUND)
    assert [layer.name for layer in times.layers] == ["head", "up", "stem"]
    assert times.total_ms == 8
    assert sum(layer.share for layer in times.layers) == pytest.approx(1)
    assert times.by_kind() == {"Conv": (2, 5.0, 0.625), "Resize": (1, 3.0, 0.375)}
    assert times.to_dict()["kinds"]["Resize"] == {"count": 1, "ms": 3.0, "share": 0.375}


@pytest.mark.parametrize("provider", ["cpu", "openvino"])
def test_the_layer_with_all_the_work_takes_the_time(provider, tmp_path):
    if provider == "openvino":
        pytest.importorskip("openvino")
    path = write_conv_network(tmp_path / "conv.onnx", 48, layers=2, size=(32, 32))
    times = profile_layers(path, provider=provider, runs=9)
    kinds = list(times.by_kind())
    assert kinds[0] in ("Conv", "Convolution")
    # 48 to 48 channels after 3 to 48
    assert times.layers[0].kind == kinds[0]
    assert times.layers[0].ms > min(layer.ms for layer in times.layers if layer.kind == kinds[0])


@pytest.mark.parametrize("provider", ["cuda", "torch"])
def test_providers_that_do_not_tell_are_refused(provider):
    with pytest.raises(ProviderError) as caught:
        check_profile(provider)
    assert str(caught.value) == (
        f"Expected the provider of a profile to be cpu or openvino, but got {provider}, which does not tell the "
        "layers' own times. Profile with one of these, or leave `--profile` out."
    )
