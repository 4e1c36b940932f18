import pytest
import torch
from torch import nn

from lomt.errors import SparsityTargetError, UnknownNameError
from lomt.sparsity import coupled_groups
from lomt.sparsity.coupled_groups import shrink_factors
from lomt.structure import trace_structure
from tests.reference import coupled_prox as reference
from tests.unit.sparsity.coupled_networks import IMAGES, branched, grouped, two_tasks


def test_a_group_is_all_that_reads_a_channel():
    model = branched()
    structure, groups = grouped(model)

    assert [(own.name, own.count) for own in groups.sets] == [("stem", 6), ("a", 8)]
    assert groups.sizes.tolist() == [8 + 2] * 6 + [6 * 9] * 8
    expected = torch.stack([reference.entries(s).norm() for _, _, s in reference.channels(structure, model)])
    torch.testing.assert_close(groups.squares().sqrt().float(), expected)
    torch.testing.assert_close(groups.levels() * groups.sizes.sqrt(), expected.double())


def test_only_the_last_layer_of_a_residual_branch_ends_one():
    _, groups = grouped(branched())

    assert [own.is_branch_end for own in groups.sets] == [False, True]
    assert not any(own.is_branch_end for own in grouped(two_tasks())[1].sets)


def test_a_channel_is_zero_when_every_reader_ignores_it():
    model = branched()
    structure, groups = grouped(model)
    with torch.no_grad():
        model.a.weight[:, 2] = 0
        assert not groups.zeros().any()
        model.head.weight[:, 2] = 0

    assert groups.zeros().nonzero().flatten().tolist() == [2]
    keep = groups.keep(~groups.zeros())
    assert list(keep) == ["stem"]
    assert structure.params(keep) < structure.params()


def test_single_layers_have_groups_of_their_own_when_asked():
    _, groups = grouped(branched(), is_coupled=False)

    assert {own.name for own in groups.sets} == {"stem>a", "stem>head", "a>b"}
    assert groups.count == 6 + 6 + 8


def test_components_are_those_that_compute_the_channels():
    model = two_tasks()
    _, groups = grouped(model, component_of=model.component_of)
    _, own = grouped(model, component_of=model.component_of, components=("depth",))

    assert groups.components == ("backbone", "depth", "segmentation")
    assert groups.count == 5 * 60 + 2 * 40
    assert own.components == ("depth",) and own.count == 40
    assert own.set_aside["backbone.0"] == "part `backbone` is not asked for"


def test_stages_are_told_by_their_resolution():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 1, 1)
    )
    _, groups = grouped(model)

    assert [own.stage for own in groups.sets] == ["output/36", "output/36", "output/1"]


def test_an_unknown_component_is_named():
    model = two_tasks()
    structure = trace_structure(model, IMAGES)

    with pytest.raises(UnknownNameError, match="Unknown component `dept`, did you mean `depth`"):
        coupled_groups(model, structure, component_of=model.component_of, components=("dept",))


def test_a_model_without_removable_channels_is_refused_with_the_reasons():
    model = nn.Sequential(nn.Conv2d(3, 2, 1))

    with pytest.raises(
        SparsityTargetError, match="^Expected the model to have channels that can be removed .*output"
    ):
        coupled_groups(model, trace_structure(model, IMAGES))


def test_mixed_channels_are_set_aside():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GroupNorm(1, 4), nn.Conv2d(4, 5, 1), nn.Conv2d(5, 2, 1))
    _, groups = grouped(model)

    assert [own.name for own in groups.sets] == ["2"]
    assert groups.set_aside["0"] == "mixed by the normalisation `1`"


def test_another_models_structure_is_refused():
    with pytest.raises(
        SparsityTargetError, match="^Expected `a.weight` to be a parameter of the model, but got none"
    ):
        coupled_groups(two_tasks(), trace_structure(branched(), IMAGES))


def test_factors_are_those_of_the_soft_threshold():
    squares, tau = torch.tensor([4.0, 1.0, 0.0, 9.0]), torch.tensor([1.0, 1.0, 0.0, 0.0])

    assert shrink_factors(squares, tau).tolist() == [0.5, 0.0, 0.0, 1.0]
