import copy
import dataclasses

import pytest
import torch
from safetensors.torch import save_file

from lomt.errors import ArtifactError, LomtError
from lomt.models import AdoptedModel, AdoptedSpec, AdoptionError, load_model, save_model
from lomt.models.factory import FactoryError, factory_candidates
from tests.reference import own_models

SPEC = AdoptedSpec(
    "tests.reference.own_models:TwoUNets",
    {"parts": True, "depth": True},
    (64, 96),
    kwargs={"classes": 3},
    outputs={"parts": "0", "depth": "1"},
    branch_points={"depth": "encoder.layer2.0"},
)


def images():
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def test_a_description_survives_json():
    network = SPEC.build()
    assert network.spec.backbone == ("encoder",)
    assert network.branch_points == {"parts": "encoder.layer3.1", "depth": "encoder.layer2.0"}
    assert AdoptedSpec.from_dict(network.spec.to_dict()) == network.spec
    with pytest.raises(ValueError, match="a model description with the keys"):
        AdoptedSpec.from_dict({"factory": "a:b"})


def test_a_saved_network_is_the_same(tmp_path):
    network = SPEC.build()
    save_model(network, tmp_path)
    loaded = load_model(tmp_path)
    assert isinstance(loaded, AdoptedModel)
    found, wanted = loaded(images()), network.eval()(images())
    assert all(torch.equal(found[task], wanted[task]) for task in wanted)


def test_a_network_knows_its_factory():
    network = SPEC.build()
    (factory,) = factory_candidates(network)
    torch.manual_seed(0)
    assert factory.build().spec == network.spec


def test_a_copy_is_independent():
    network = SPEC.build().eval()
    twin = copy.deepcopy(network)
    wanted = network(images())["depth"]
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert torch.equal(twin(images())["depth"], wanted)


def test_weights_of_the_model_are_loaded(tmp_path):
    model = own_models.TwoUNets(classes=3)
    save_file(model.state_dict(), tmp_path / "own.safetensors")
    network = AdoptedSpec(SPEC.factory, SPEC.dense, SPEC.size, SPEC.kwargs, SPEC.outputs).build(
        tmp_path / "own.safetensors"
    )
    wanted = torch.nn.functional.interpolate(model.eval()(images())[1], size=(64, 96), mode="bilinear")
    assert torch.equal(network.eval()(images())["depth"], wanted)


def test_weights_that_do_not_fit_are_named(tmp_path):
    entries = own_models.TwoUNets(classes=3).state_dict()
    entries["extra"] = entries.pop("parts.bias")
    save_file(entries, tmp_path / "own.safetensors")
    with pytest.raises(ArtifactError, match=r"missing keys: parts\.bias; 1 unexpected keys: extra"):
        SPEC.build(tmp_path / "own.safetensors")


def test_a_task_that_the_model_lacks_is_named():
    spec = AdoptedSpec("tests.reference.own_models:DeepHeads", {"parts": True, "normals": True}, (64, 96))
    with pytest.raises(AdoptionError, match="predictions of `normals`, but it returns `parts`, `depth`"):
        spec.build()
    with pytest.raises(FactoryError, match="there is no module `nowhere`"):
        AdoptedSpec("nowhere:Net", {"parts": True}, (64, 96)).build()


def test_a_new_decoder_takes_the_place_of_a_moved_one():
    spec = dataclasses.replace(
        SPEC, new_decoders=dict.fromkeys(("parts", "depth"), "tests.reference.own_models:NewHead")
    )
    network = spec.build()
    assert network.decoders["depth"].module.last.in_channels == 16
    assert network.decoders["depth"].module.reduction == 4
    assert network.decoders["parts"].reads["encoder.stem"] == "encoder.stem"  # it stays where it was
    found = network.eval()(images())
    assert found["depth"].shape == (2, 1, 64, 96)
    assert AdoptedSpec.from_dict(network.spec.to_dict()) == network.spec


def test_a_decoder_reads_single_inputs_where_it_is_told_to(tmp_path):
    own = {"encoder.layer3.1": "encoder.layer1.1", "encoder.layer1.1": "encoder.stem"}
    network = dataclasses.replace(SPEC, branch_points={}, reads={"depth": own}).build().eval()
    assert network.branch_points["depth"] == "encoder.layer2.1"
    reads = network.decoders["depth"].reads
    assert reads == {name: own.get(name, name) for name in reads}
    assert set(network.decoders["depth"].adapters) == {"1", "3"}
    save_model(network, tmp_path)
    assert torch.equal(load_model(tmp_path)(images())["depth"], network(images())["depth"])


def test_a_new_decoder_reads_one_layer():
    own = {"encoder.layer3.1": "encoder.layer1.1", "encoder.layer2.1": "encoder.layer2.0"}
    spec = dataclasses.replace(
        SPEC,
        branch_points={},
        reads={"depth": own},
        new_decoders={"depth": "tests.reference.own_models:NewHead"},
    )
    with pytest.raises(AdoptionError, match=r"reads one, but got encoder\.layer1\.1, encoder\.layer2\.0"):
        spec.build()


def test_a_new_decoder_that_predicts_something_else_is_refused():
    spec = dataclasses.replace(SPEC, new_decoders={"depth": "tests.reference.own_models:WrongHead"})
    with pytest.raises(AdoptionError, match="task `depth` to predict 1 channels in 4 dimensions"):
        spec.build()
    spec = dataclasses.replace(SPEC, new_decoders={"depth": "tests.reference.own_models:SharedUNet"})
    with pytest.raises(LomtError, match="option `channels`"):
        spec.build()


def test_predictions_are_picked_out_of_what_else_a_model_returns():
    spec = AdoptedSpec(
        "tests.reference.own_models:PostProcessing",
        {"parts": True, "depth": True},
        (64, 96),
        outputs={"parts": "raw.0", "depth": "raw.1"},
    )
    assert spec.build().eval()(images())["parts"].shape == (2, 5, 64, 96)
    labels = dataclasses.replace(spec, outputs={"parts": "labels", "depth": "raw.1"})
    with pytest.raises(AdoptionError, match=r"`parts` to have the shape \(batch, 5, height, width\)"):
        labels.adopt().check_predictions({"parts": (5, True)})
