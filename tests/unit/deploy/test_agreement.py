import json

import numpy as np
import onnx
import pytest

from lomt.deploy.agreement import _agreement, agreement_with, labelled_outputs
from lomt.deploy.onnx_graph import set_metadata
from tests.unit.deploy.networks import write_conv_network

IMAGES = [np.random.default_rng(seed).standard_normal((3, 8, 8), dtype=np.float32) for seed in range(3)]


def test_a_file_agrees_with_itself_and_a_scaled_one_by_what_the_scale_leaves(tmp_path):
    path = write_conv_network(tmp_path / "one.onnx", 4, layers=1, size=(8, 8))
    near = write_conv_network(tmp_path / "near.onnx", 4, layers=1, size=(8, 8), scale=1.1)
    judge = agreement_with(path, IMAGES)
    assert judge(path) == {"depth": 1.0}
    # zero mean nearly, so that a tenth more is a tenth of the deviation
    assert judge(near)["depth"] == pytest.approx(0.9, abs=0.01)


def test_scores_of_classes_agree_where_the_largest_is_the_same(tmp_path):
    path = write_conv_network(tmp_path / "one.onnx", 4, layers=1, size=(8, 8))
    near = write_conv_network(tmp_path / "near.onnx", 4, layers=1, size=(8, 8), scale=2.0)
    network = onnx.load(path)
    set_metadata(network, {"lomt.outputs": json.dumps({"depth": {"kind": "segmentation"}})})
    onnx.save(network, path)
    assert agreement_with(path, IMAGES)(near) == {"depth": 1.0}


def test_metadata_says_which_outputs_hold_scores():
    kinds = {"a": "segmentation", "b": "depth", "c": "classification"}
    assert labelled_outputs({"kinds": json.dumps(kinds)}) == ("a", "c")
    assert labelled_outputs(
        {"lomt.outputs": json.dumps({"a": {"kind": "segmentation"}, "b": {"kind": None}})}
    ) == ("a",)
    assert labelled_outputs({}) == ()


def test_numbers_that_are_not_finite_agree_with_nothing_and_constants_only_with_themselves():
    ones = np.ones((2, 3))
    assert _agreement(ones * np.nan, ones, is_labelled=False) == 0
    assert _agreement(ones, ones, is_labelled=False) == 1
    assert _agreement(ones * 2, ones, is_labelled=False) == 0
