import logging
import sys

import pytest
import timm
import torch
from torch import nn

from lomt.errors import UnknownNameError
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec
from lomt.models.backbone import mismatch
from lomt.models.factory import Factory, FactoryError, factory_candidates, load_factory

FILE = """
from torch import nn
from beside import WIDTH

LAYER = nn.Linear(1, 1)

def build(width=WIDTH):
    return nn.Linear(2, width)

def needs(width, depth, scale=1.0):
    return nn.Linear(width, depth)

def raises():
    raise KeyError("no weights here\\nand a second line")

def returns():
    return {"a": 1}

def stops():
    raise SystemExit(3)

class Net(nn.Module):
    pass
"""


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory with a factory file, from which lomt is called; modules made here are forgotten."""
    (tmp_path / "factories.py").write_text(FILE)
    (tmp_path / "beside.py").write_text("WIDTH = 7\n")
    (tmp_path / "broken.py").write_text("import nothing_like_this\n")
    (tmp_path / "wrong.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_a_file(place):
    before = sys.path[:]

    assert Factory("factories.py:build").build().out_features == 7
    assert Factory(str(place / "factories.py:build"), {"width": 3}).build().out_features == 3
    assert isinstance(Factory("factories.py:Net").build(), nn.Module)
    assert sys.path == before


def test_a_module(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))

    assert Factory("factories:build", {"width": 4}).build().out_features == 4
    assert Factory("torch.nn:Linear", {"in_features": 2, "out_features": 5}).build().out_features == 5


def test_timm():
    model = Factory("timm:resnet18", {"features_only": True, "out_indices": [1, 2]}).build()

    assert [x.shape[1] for x in model(torch.rand(1, 3, 32, 32))] == [64, 128]


def test_loading_does_not_call(place):
    with pytest.raises(KeyError):
        load_factory("factories.py:raises")()


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        (
            "nocolon",
            FactoryError,
            "Expected the factory to be `package.module:callable`, `path/file.py:callable` or `timm:NAME`, "
            "but got `nocolon`.",
        ),
        ("resnet18", FactoryError, "but got `resnet18`. Did you mean `timm:resnet18`?"),
        ("timm:resnet_18", UnknownNameError, "Unknown timm model `resnet_18`, did you mean `resnet"),
        (
            "none.py:build",
            FactoryError,
            "Expected a Python file at none.py for factory `none.py:build`, but there is none.",
        ),
        (
            "not_there.models:build",
            FactoryError,
            "Expected a module `not_there.models` for factory `not_there.models:build`, but there is no module "
            "`not_there`. It must be installed, or lie in the directory lomt is called from.",
        ),
        ("factories.py:biuld", UnknownNameError, "Unknown callable `biuld`, did you mean `build`?"),
        (
            "broken.py:build",
            FactoryError,
            "Expected factory `broken.py:build` to have a file that can be imported, but it raised "
            "ModuleNotFoundError: No module named 'nothing_like_this'. The log has the traceback (`-v`).",
        ),
        ("wrong.py:build", FactoryError, "but it raised SyntaxError: "),
        (
            "factories.py:raises",
            FactoryError,
            "Expected factory `factories.py:raises` to return a model, but it raised "
            "KeyError: 'no weights here\\nand a second line'.",
        ),
        ("factories.py:stops", FactoryError, "but it raised SystemExit: 3."),
        (
            "factories.py:needs",
            FactoryError,
            "Expected factory `factories.py:needs` to need no further arguments, but it needs `width`, `depth`. "
            "Give each as `--option width=VALUE`, in Python with `kwargs`.",
        ),
        (
            "factories.py:returns",
            FactoryError,
            "Expected factory `factories.py:returns` to return a torch.nn.Module, but got dict.",
        ),
        (
            "factories.py:LAYER",
            FactoryError,
            "Expected factory `factories.py:LAYER` to be a function or class that builds the model, but got a "
            "model. Write a function that returns a new one.",
        ),
    ],
)
def test_mistakes(place, spec, kind, message):
    with pytest.raises(kind) as caught:
        Factory(spec).build()

    assert message in str(caught.value)


def test_a_module_that_lacks_another(place, monkeypatch):
    monkeypatch.syspath_prepend(str(place))

    with pytest.raises(FactoryError, match="to have a module that can be imported, but it raised ModuleNot"):
        Factory("broken:build").build()


def test_unknown_arguments(place):
    with pytest.raises(UnknownNameError, match="Unknown option `widht`, did you mean `width`"):
        Factory("factories.py:build", {"widht": 3}).build()


def test_the_traceback_is_logged(place, caplog):
    with caplog.at_level(logging.INFO, "lomt"), pytest.raises(FactoryError):
        Factory("factories.py:raises").build()

    assert "Traceback" in caplog.text and "in raises" in caplog.text


def test_a_failed_file_is_no_module_afterwards(place):
    before = set(sys.modules)
    with pytest.raises(FactoryError):
        load_factory("broken.py:build")

    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("resnet18", {}),
        ("resnet18", {"num_classes": 5, "in_chans": 1}),
        ("resnet18", {"num_classes": 0, "global_pool": ""}),
        ("resnet18", {"features_only": True, "out_indices": [1, 3]}),
        ("vit_tiny_patch16_224", {"img_size": [32, 32], "num_classes": 2}),
        ("vit_tiny_patch16_224", {"img_size": [32, 32], "features_only": True}),
    ],
    ids=["plain", "channels", "headless", "features", "image_size", "features_of_image_size"],
)
def test_timm_models_are_among_their_candidates(name, kwargs):
    model = timm.create_model(name, **kwargs)

    built = (factory.build() for factory in factory_candidates(model))

    assert any(str(other) == str(model) and not mismatch(*_states(other, model)) for other in built)


def _states(*models):
    return [model.state_dict() for model in models]


def test_the_candidate_of_a_multitask_model():
    spec = ModelSpec(
        backbone=BackboneSpec("mobilenetv3_small_050"),
        decoders={"scene": DecoderSpec("classifier")},
        out_channels={"scene": 3},
        dense={"scene": False},
        branch_points={"scene": "blocks.1.1"},
    )

    (factory,) = factory_candidates(spec.build())

    assert factory.spec == "lomt:multitask"
    assert factory.build().spec == spec


def test_other_models_have_no_candidates():
    assert factory_candidates(nn.Linear(1, 1)) == []
