import dataclasses
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from lomt.checksum import sha256_of
from lomt.errors import ArtifactError
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec, save_model
from lomt.models.factory import Factory, FactoryError
from lomt.pruning.apply import apply_plan
from lomt.pruning.origin import Origin, add_plan, origin_of, set_origin
from lomt.pruning.plan import AttributeChange, PruningPlan
from lomt.pruning.storage import load, save
from lomt.pruning.structure_file import _checksum

FACTORY = """
from torch import nn
BUILT = []

class Net(nn.Sequential):
    def __init__(self, width=8, bias=True):
        super().__init__(
            nn.Conv2d(3, width, 3, bias=bias), nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, 2, 1)
        )
        BUILT.append(self)

class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, x):
        return self.head(self.embed(x))

class Untied(Tied):
    def __init__(self):
        super().__init__()
        self.head.weight = nn.Parameter(self.embed.weight.detach() * 2)
"""
EMPTY = PruningPlan({}, {}, (), (), {}, {}, 1, 1, 1, 1)
IMAGES = torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@dataclass
class Result:
    model: nn.Module
    plan: PruningPlan


def cut(kept, before=8):
    """Return the plan that keeps channels of the first layer of the factory's Net."""
    return PruningPlan(
        keep={"0": kept},
        tensors={
            "0.weight": {0: kept},
            "0.bias": {0: kept},
            **{f"1.{name}": {0: kept} for name in ("weight", "bias", "running_mean", "running_var")},
            "3.weight": {1: kept},
        },
        attributes=(AttributeChange("1", "num_features", None, len(kept)),),
        replaced=(),
        protected={},
        counts={"0": before},
        params_before=1,
        params_after=1,
        macs_before=1,
        macs_after=1,
    )


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A directory that has a module with factories and can be imported from."""
    (tmp_path / "small_nets.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        del sys.modules[name]


def _net(**kwargs):
    torch.manual_seed(0)
    model = Factory("small_nets:Net", kwargs).build()
    model(IMAGES)  # moves the running statistics
    return model.eval()


def _pruned(model=None, plan=None):
    plan = cut((0, 2, 3, 7)) if plan is None else plan
    return Result(apply_plan(_net() if model is None else model, plan), plan)


@pytest.fixture
def saved(place):
    return save(_pruned(), place / "pruned", factory="small_nets:Net")


# --- round trips


def test_the_loaded_model_computes_the_same(place):
    result = _pruned()

    loaded = load(str(save(result, place / "pruned", factory="small_nets:Net")))

    assert torch.equal(loaded(IMAGES), result.model(IMAGES))
    assert loaded[0].out_channels == 4
    assert not loaded.training
    assert origin_of(loaded) == Origin(Factory("small_nets:Net"), (result.plan,))


def test_arguments_of_the_factory(place):
    plan = cut((1, 5, 9), before=12)
    result = _pruned(_net(width=12), plan)

    loaded = load(save(result, place / "pruned", factory="small_nets:Net", kwargs={"width": 12}))

    assert torch.equal(loaded(IMAGES), result.model(IMAGES))


def test_two_prunings_with_a_save_between(place):
    first = load(save(_pruned(), place / "one", factory="small_nets:Net"))
    second = cut((1, 3), before=4)
    result = Result(apply_plan(first, second), second)

    loaded = load(save(result, place / "two"))  # the model remembers its factory

    assert torch.equal(loaded(IMAGES), result.model(IMAGES))
    assert loaded[0].out_channels == 2
    assert len(origin_of(loaded).plans) == 2


def test_two_prunings_without_a_save_between(place):
    first = _pruned()
    set_origin(first.model, Origin())
    add_plan(first.model, first.plan)
    second = cut((1, 3), before=4)
    result = Result(apply_plan(first.model, second), second)

    loaded = load(save(result, place / "two", factory="small_nets:Net"))

    assert torch.equal(loaded(IMAGES), result.model(IMAGES))


def test_a_plan_that_is_remembered_is_not_applied_twice(place):
    result = _pruned()
    add_plan(result.model, result.plan)
    told = dataclasses.replace(result.plan, params_before=99)  # the same cut, better described

    loaded = load(save(Result(result.model, told), "pruned", factory="small_nets:Net"))

    assert origin_of(loaded).plans == (told,)
    assert torch.equal(loaded(IMAGES), result.model(IMAGES))


def test_a_loaded_model_trained_further(place, saved):
    model = load(saved)
    with torch.no_grad():
        model[0].weight += 1

    loaded = load(save(model, saved))

    assert torch.equal(loaded[0].weight, model[0].weight)
    assert sorted(path.name for path in saved.iterdir()) == ["model.safetensors", "structure.json"]


def test_another_process_computes_the_same(place, saved):
    save_file({"images": IMAGES}, place / "images.safetensors")
    script = (
        "import sys, torch, lomt\n"
        "from safetensors.torch import load_file, save_file\n"
        "torch.set_num_threads(1)\n"
        "images = load_file(sys.argv[2])['images']\n"
        "save_file({'out': lomt.load(sys.argv[1])(images).detach()}, sys.argv[3])"
    )
    paths = [str(saved), "images.safetensors", "outputs.safetensors"]
    root = str(Path(__file__).resolve().parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([root, str(place)])}
    subprocess.run([sys.executable, "-c", script, *paths], check=True, env=environment)

    assert torch.equal(load_file("outputs.safetensors")["out"], load(saved)(IMAGES))


def test_a_factory_in_a_file_moves_with_the_directory(place, tmp_path_factory):
    (place / "project" / "runs").mkdir(parents=True)
    shutil.copy("small_nets.py", "project/nets.py")
    result = _pruned()

    save(result, "project/runs/pruned", factory="project/nets.py:Net")
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "moved"
    shutil.move(place / "project", elsewhere)

    stored = json.loads((elsewhere / "runs/pruned/structure.json").read_text())["factory"]
    assert stored == {"spec": "../../nets.py:Net", "kwargs": {}}
    assert torch.equal(load(elsewhere / "runs/pruned")(IMAGES), result.model(IMAGES))


def test_a_function_or_class_as_factory(place):
    import small_nets

    result = _pruned()

    loaded = load(save(result, place / "pruned", factory=small_nets.Net))

    assert origin_of(loaded).factory == Factory("small_nets:Net")


def test_loading_with_another_factory_does_not_look_at_the_stored_one(place, saved):
    import small_nets

    expected = load(saved)(IMAGES)
    build = small_nets.Net
    (place / "small_nets.py").unlink()
    del sys.modules["small_nets"]

    assert torch.equal(load(saved, factory=build)(IMAGES), expected)
    assert torch.equal(load(saved, factory=lambda: build())(IMAGES), expected)
    assert "small_nets" not in sys.modules


def test_tied_weights_stay_tied(place):
    kept = (0, 3)
    plan = PruningPlan({}, {"embed.weight": {1: kept}, "head.weight": {1: kept}}, (), (), {}, {}, 1, 1, 1, 1)
    result = Result(apply_plan(Factory("small_nets:Tied").build(), plan), plan)
    tokens = torch.arange(6)

    directory = save(result, place / "pruned", factory="small_nets:Tied")
    loaded = load(directory)

    assert loaded.head.weight is loaded.embed.weight
    assert torch.equal(loaded(tokens), result.model(tokens))
    assert list(load_file(directory / "model.safetensors")) == ["embed.weight"]


def test_values_that_the_factory_ties_are_not_lost_in_silence(place):
    save(Result(Factory("small_nets:Untied").build(), EMPTY), "pruned", factory="small_nets:Tied")

    with pytest.raises(
        ArtifactError,
        match="but got one tensor for `head.weight` and `embed.weight`, which have different values in the file",
    ):
        load("pruned")


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(place, dtype):
    result = _pruned()
    result.model.to(dtype)

    loaded = load(save(result, "pruned", factory="small_nets:Net"))

    assert loaded[1].running_mean.dtype == loaded[0].weight.dtype == dtype
    assert torch.equal(loaded(IMAGES.to(dtype)), result.model(IMAGES.to(dtype)))


def test_weights_that_are_parts_of_one_memory(place):
    result = _pruned()
    memory = torch.rand(8, 2, 1, 1)
    result.model[3].weight = nn.Parameter(memory[:4].transpose(0, 1))
    result.model[3].bias = nn.Parameter(memory[4, :, 0, 0])

    loaded = load(save(result, "pruned", factory="small_nets:Net"))

    assert torch.equal(loaded(IMAGES), result.model(IMAGES))


@pytest.mark.parametrize("kwargs", [{}, {"num_classes": 3, "in_chans": 1}], ids=["plain", "channels"])
def test_the_factory_of_a_timm_model_is_found(place, kwargs):
    torch.manual_seed(0)
    model = timm.create_model("test_efficientnet", **kwargs).eval()
    change = AttributeChange("", "num_features", None, 7)
    plan = PruningPlan({}, {}, (change,), (), {}, {}, 1, 1, 1, 1)
    images = torch.rand(1, kwargs.get("in_chans", 3), 32, 32)
    result = Result(apply_plan(model, plan), plan)

    loaded = load(save(result, "pruned"))

    assert loaded.num_features == 7
    assert torch.equal(loaded(images), result.model(images))


def test_a_multitask_model_of_ours(place):
    spec = ModelSpec(
        backbone=BackboneSpec("mobilenetv3_small_050"),
        decoders={"depth": DecoderSpec("aspp", width=4), "scene": DecoderSpec("classifier")},
        out_channels={"depth": 1, "scene": 3},
        dense={"depth": True, "scene": False},
        branch_points={"depth": "blocks.1.1", "scene": "blocks.2.0"},
    )
    torch.manual_seed(0)
    model = spec.build().eval()
    images = torch.rand(1, 3, 32, 32)

    loaded = load(save(Result(model, EMPTY), "pruned"))

    assert origin_of(loaded).factory.spec == "lomt:multitask"
    assert all(torch.equal(value, model(images)[task]) for task, value in loaded(images).items())

    save_model(model, "dense")  # a model that was never pruned is loaded by the same function
    assert torch.equal(load("dense")(images)["scene"], model(images)["scene"])


def test_weights_are_not_downloaded_again(place):
    model = timm.create_model("test_efficientnet")
    set_origin(model, Origin(Factory("timm:test_efficientnet", {"pretrained": True})))

    save(model, "pruned")

    assert json.loads(Path("pruned/structure.json").read_text())["factory"]["kwargs"] == {}


def test_the_random_state_is_left_alone(place, saved):
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load(saved)

    assert torch.equal(torch.rand(3), expected)


# --- what cannot be saved


def test_no_factory(place):
    with pytest.raises(
        FactoryError,
        match=r"Expected `factory` to say what builds this Net, but none was given and none was found. "
        r'Pass factory="package.module:callable", with kwargs=\{...\} if it needs arguments.',
    ):
        save(_pruned(), "pruned")
    assert not Path("pruned").exists()


def test_a_timm_model_built_in_another_way(place):
    model = timm.create_model("test_efficientnet", output_stride=8)  # same tensors, other strides

    with pytest.raises(
        FactoryError, match=r"nearest is `timm:test_efficientnet.*`, which differs in `.*stride"
    ):
        save(model, "pruned")


def test_a_factory_of_another_model(place):
    with pytest.raises(
        FactoryError,
        match=r"Expected `factory` to build the model that was pruned, but got: Expected plan 1 of 1 to fit the "
        r"model that the factory builds, but got: Expected the model to have the tensor `0.weight`",
    ):
        save(_pruned(_net(width=12), cut((1, 2), before=12)), "pruned", factory="small_nets:Tied")


def test_arguments_that_were_forgotten(place):
    with pytest.raises(
        FactoryError,
        match=r"but the model differs from that of `small_nets:Net` with \{\} by 7 keys of another shape: .*"
        r"Give the arguments it was built with",
    ):
        save(_pruned(_net(width=12), EMPTY), "pruned", factory="small_nets:Net")


def test_attributes_that_differ_are_a_warning(place, caplog):
    result = _pruned()
    result.model[0].stride = (2, 2)

    save(result, "pruned", factory="small_nets:Net")

    assert "differ in `0.stride` ((2, 2) and (1, 1))" in caplog.text


def test_arguments_that_json_does_not_know(place):
    with pytest.raises(
        FactoryError, match=r"Expected `kwargs` of factory `small_nets:Net` to be of types that"
    ):
        save(_pruned(), "pruned", factory="small_nets:Net", kwargs={"width": torch.tensor(8)})


def test_arguments_without_factory(place):
    with pytest.raises(ValueError, match="Expected `kwargs` together with `factory`, but got no `factory`"):
        save(_pruned(), "pruned", kwargs={"width": 8})


def test_a_factory_that_cannot_be_imported(place):
    with pytest.raises(FactoryError, match="to be a function or class at the top of an importable module"):
        save(_pruned(), "pruned", factory=lambda: None)


def test_state_that_is_no_tensor(place):
    result = _pruned()
    type(result.model).get_extra_state = lambda self: {"a": 1}
    type(result.model).set_extra_state = lambda self, state: None

    with pytest.raises(ValueError, match="state to be tensors, but got dict under `_extra_state`"):
        save(result, "pruned", factory="small_nets:Net")


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["full", "ctrl_c"])
@pytest.mark.parametrize("existing", [False, True], ids=["new", "existing"])
def test_a_failed_save_leaves_what_was_there(place, monkeypatch, error, existing):
    if existing:
        save(_pruned(), "pruned", factory="small_nets:Net")
    before = _files("pruned")

    def fail(entries, path, metadata):
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("lomt.pruning.storage.save_file", fail)
    with pytest.raises(type(error)):
        save(_pruned(), "pruned", factory="small_nets:Net")

    assert _files("pruned") == before


def test_an_interrupt_between_the_files_leaves_nothing_new(place, monkeypatch):
    def fail(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("lomt.pruning.storage.structure_text", fail)
    with pytest.raises(KeyboardInterrupt):
        save(_pruned(), "pruned", factory="small_nets:Net")

    assert _files("pruned") == {}


def _files(directory):
    return {path.name: path.read_bytes() for path in Path(directory).glob("*")}


# --- what cannot be loaded; the factory must not have run


@pytest.fixture
def untouched(saved):
    """Fail if the factory's module is executed."""
    del sys.modules["small_nets"]
    yield saved
    assert "small_nets" not in sys.modules


def _edit(saved, change, sign=True):
    content = json.loads((saved / "structure.json").read_text())
    change(content)
    if sign:
        content.pop("sha256", None)
        content["sha256"] = _checksum(content)
    (saved / "structure.json").write_text(json.dumps(content))


@pytest.mark.parametrize("name", ["structure.json", "model.safetensors"])
def test_missing_files(untouched, name):
    (untouched / name).unlink()

    with pytest.raises(ArtifactError, match=rf"Expected .*{name}, but there is no such file"):
        load(untouched)


@pytest.mark.parametrize("place_in_file", [10, -1], ids=["header", "values"])
def test_changed_weights(untouched, place_in_file):
    content = bytearray((untouched / "model.safetensors").read_bytes())
    content[place_in_file] ^= 1
    (untouched / "model.safetensors").write_bytes(content)

    with pytest.raises(
        ArtifactError, match=r"to have the SHA-256 .* the file was changed, or a save was interrupted"
    ):
        load(untouched)


def test_truncated_weights(untouched):
    content = (untouched / "model.safetensors").read_bytes()
    (untouched / "model.safetensors").write_bytes(content[:-8])

    with pytest.raises(ArtifactError, match="to have the SHA-256"):
        load(untouched)


def test_weights_of_another_kind_with_the_right_checksum(untouched):
    (untouched / "model.safetensors").write_bytes(b"no safetensors here")
    checksum = sha256_of(untouched / "model.safetensors")
    _edit(untouched, lambda c: c["weights"].update(sha256=checksum))

    with pytest.raises(ArtifactError, match="to be a safetensors file, but got"):
        load(untouched)


def test_every_edit_by_hand_is_noticed(untouched):
    _edit(untouched, lambda c: c["factory"].update(spec="os:getcwd"), sign=False)

    with pytest.raises(
        ArtifactError, match="to be as it was saved, but its content does not have the checksum"
    ):
        load(untouched)


def test_truncated_structure(untouched):
    text = (untouched / "structure.json").read_text()
    (untouched / "structure.json").write_text(text[: len(text) // 2])

    with pytest.raises(ArtifactError, match=r"Expected .*structure.json to be readable JSON, but got"):
        load(untouched)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda c: c.update(schema=2),
            "to have schema 1, but got 2. Load it with the version of lomt that wrote",
        ),
        (
            lambda c: c.update(kind="other"),
            "to be of a pruned model, but got the kind 'other'. Save one with",
        ),
        (lambda c: c.pop("tied"), r"to have the keys \['factory', 'kind', .*, but got \["),
        (lambda c: c.update(run="x"), r"to have the keys .* 'run'"),
        (
            lambda c: c["factory"].update(code="x"),
            "Expected `factory` of .* to have the keys spec and kwargs",
        ),
        (lambda c: c["factory"].update(spec=3), "Expected `factory` of .* to be a text and a mapping"),
        (lambda c: c["weights"].pop("file"), "Expected `weights` of .* to have the texts file and sha256"),
        (lambda c: c.update(tied={"a": 1}), "Expected `tied` of .* to map texts to texts, but got {'a': 1}"),
        (lambda c: c.update(tied={"a": "b"}), "to hold `b`, which `a` is tied to"),
        (lambda c: c.update(plans={}), "Expected `plans` of .* to be a list"),
        (
            lambda c: c["plans"][0].update(extra=1),
            "to hold pruning plans, but got: Expected `plan` to have the keys",
        ),
        (lambda c: c["plans"][0].update(schema=9), "got: Expected a pruning plan of schema 1, but got 9"),
        (lambda c: c["plans"][0]["keep"].update({"0": "x"}), "Expected increasing positions"),
    ],
)
def test_structures_that_make_no_sense(untouched, change, message):
    _edit(untouched, change)

    with pytest.raises(ArtifactError, match=message):
        load(untouched)


def test_a_structure_that_is_no_mapping(untouched):
    (untouched / "structure.json").write_text("[1]")

    with pytest.raises(ArtifactError, match="to be of a pruned model, but got another file"):
        load(untouched)


def test_a_factory_that_is_gone(saved, place):
    del sys.modules["small_nets"]
    (place / "small_nets.py").unlink()

    with pytest.raises(
        ArtifactError,
        match=r"Expected the factory of .*structure.json to build the model, but got: Expected a module `small_nets` "
        r".* Where it has moved, pass `factory` to `lomt.load`.",
    ):
        load(saved)


def test_a_plan_of_another_model(saved):
    _edit(saved, lambda c: c["plans"][0]["slices"].append({"kept": "0-1", "of": ["none.weight:0"]}))

    with pytest.raises(
        ArtifactError, match=r"Expected plan 1 of 1 to fit the model that the factory builds, but"
    ):
        load(saved)


def test_weights_that_do_not_fit(saved):
    _edit(saved, lambda c: c.update(plans=[]))

    with pytest.raises(
        ArtifactError,
        match=r"to fit the model that the factory builds, but got 7 keys of another shape: 0.bias \(4,\) instead "
        r"of \(8,\).* It was saved with lomt ",
    ):
        load(saved)
