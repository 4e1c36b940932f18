import numpy as np
import onnx
import pytest
from onnx import helper

from lomt.deploy import LatencyError, graph_timing
from lomt.deploy.graph_timing import time_files, time_layers
from lomt.deploy.layer_shapes import LayerShape
from tests.unit.deploy.networks import write_conv_network, write_network

FEED = {"images": np.ones((1, 3, 24, 32), np.float32)}


def pointwise(width, size=24):
    return LayerShape("conv", width, width, (size, size), (size, size), (1, 1), (1, 1), (1, 1))


def test_a_hundred_times_the_work_takes_longer():
    small, large = time_layers([pointwise(16), pointwise(160)], seconds=1.0)
    assert 0 < 5 * small < large


def test_more_layers_than_take_turns_at_once_all_get_a_time(monkeypatch):
    monkeypatch.setattr(graph_timing, "_AT_ONCE", 2)
    monkeypatch.setattr(graph_timing, "_MOST_ROUNDS", 1)
    times = time_layers([pointwise(8, 4)] * 5, seconds=0.1)
    assert len(times) == 5
    assert min(times) > 0


def test_the_time_of_a_layer_is_what_two_more_copies_add(monkeypatch):
    monkeypatch.setattr(graph_timing, "_take_turns", lambda runs, deadline: [3.0, 11.0, 5.0, 4.0])
    assert time_layers([pointwise(8, 4)] * 2) == (4.0, 0.25)


def test_files_are_timed_in_turns_and_time_ends_the_measurement(tmp_path):
    files = [write_conv_network(tmp_path / f"{width}.onnx", width) for width in (4, 64)]
    narrow, wide = time_files(files, FEED, seconds=0.5)
    assert 0 < narrow < wide


def test_every_turn_begins_with_a_run_that_is_not_counted(monkeypatch):
    monkeypatch.setattr(graph_timing, "_MOST_ROUNDS", 2)
    times = iter([100.0, 1.0, 2.0, 3.0, 100.0, 1.0, 2.0, 3.0])
    assert graph_timing._take_turns([lambda: next(times)], float("inf")) == [2.0]


def test_what_onnxruntime_cannot_open_is_one_error(tmp_path):
    node = helper.make_node("Mystery", ["images"], ["depth"], domain="nowhere")
    path = write_network(tmp_path / "odd.onnx", [node], [], domains=["nowhere"])
    with pytest.raises(
        LatencyError, match=r"Expected onnxruntime to run `odd\.onnx`, but got: .*a budget of MACs"
    ):
        time_files([path], FEED)


def test_what_fails_while_it_runs_is_one_error(tmp_path):
    path = write_conv_network(tmp_path / "net.onnx", 4)
    network = onnx.load(path)
    network.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "channels"
    onnx.save(network, path)
    with pytest.raises(LatencyError, match=r"Expected onnxruntime to run `net\.onnx`, but got: "):
        time_files([path], {"images": np.ones((1, 5, 24, 32), np.float32)})
