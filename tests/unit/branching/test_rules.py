import pytest

from lomt.branching import RULES, DensityProfile, LayerEvidence, branch_point
from lomt.errors import UnknownNameError


def profile(pattern, bypassable=None):
    """A profile from a string: ``#`` a dense layer, ``-`` a dead one; upper row ``|`` bypassable, blank not."""
    bypassable = bypassable or "|" * len(pattern)
    return DensityProfile(
        "depth",
        tuple(
            LayerEvidence(f"layer{i}", (0.9 if mark == "#" else 0.0,), way == "|")
            for i, (mark, way) in enumerate(zip(pattern, bypassable, strict=True))
        ),
    )


@pytest.mark.parametrize(
    ("pattern", "bypassable", "expected"),
    [
        ("######", None, 5),  # nothing died: all of the backbone is needed
        ("###---", None, 2),
        ("#-##--", None, 3),  # one dead layer is no run
        ("##--##", None, 1),  # the first run ends it, whatever comes after
        ("#####-", None, 4),  # dead up to the end counts as a run
        ("####-#", None, 5),
        ("##-#-#", "|||  |"[:6], 5),
        ("###-#-", "|||| |", 2),  # a layer that cannot die lies inside the run
        ("###-##", "||| ||", 5),  # nor does one begin a run
        ("------", None, 0),  # nothing survived: the shallowest layer is all there is
    ],
)
def test_before_first_dead_run(pattern, bypassable, expected):
    assert branch_point(profile(pattern, bypassable)) == f"layer{expected}"


def test_layer_that_cannot_die_is_no_evidence():
    """The stage start at 4 is alive because it must be; the last layer that chose to live is 3."""
    found = profile("######--", "|| |  ||")

    assert branch_point(found, rule="before_first_dead_run") == "layer3"
    assert branch_point(found, rule="last_active_bypassable") == "layer3"
    assert branch_point(found, rule="deepest_active") == "layer5"


def test_last_active_looks_past_dead_runs():
    assert branch_point(profile("##--#-"), rule="last_active_bypassable") == "layer4"


def test_density_threshold_is_half_of_the_densest():
    layers = tuple(LayerEvidence(f"layer{i}", (d,), True) for i, d in enumerate((0.8, 0.6, 0.41, 0.39, 0.1)))

    assert branch_point(DensityProfile("depth", layers), rule="density_threshold") == "layer2"


@pytest.mark.parametrize(
    ("densities", "expected"),
    [
        ((1.0, 0.97, 0.87, 0.50, 0.37), 2),  # a knee far above any threshold
        ((0.95, 0.57, 0.05, 0.04, 0.01), 1),  # the same knee of a sparser run
        ((0.99, 0.95, 0.90, 0.85, 0.80), 4),  # no knee: all of the backbone is needed
        ((0.9, 0.8, 0.0, 0.0, 0.0), 1),  # dead is dead
    ],
)
def test_steepest_fall_is_relative(densities, expected):
    layers = tuple(LayerEvidence(f"layer{i}", (d,), True) for i, d in enumerate(densities))

    assert branch_point(DensityProfile("depth", layers), rule="steepest_fall") == f"layer{expected}"


def test_steepest_fall_passes_over_layers_that_cannot_die():
    layers = tuple(
        LayerEvidence(f"layer{i}", (d,), can_die)
        for i, (d, can_die) in enumerate(((0.9, True), (0.2, False), (0.8, True), (0.3, True)))
    )

    assert branch_point(DensityProfile("depth", layers), rule="steepest_fall") == "layer2"


@pytest.mark.parametrize(
    ("survivals", "expected"),
    [
        ((0.5, 0.6, 0.9, 0.6, 0.5), 2),
        ((0.5, 0.6, 0.83, 0.9, 0.87), 2),  # the deeper ones only have what the third gave them
        ((0.9, 0.9, 0.9, 0.9, 0.9), 0),
        ((0.2, 0.3, 0.4, 0.5, 0.9), 4),
    ],
)
def test_longest_survivor_is_the_shallowest_of_its_like(survivals, expected):
    layers = tuple(LayerEvidence(f"layer{i}", (d,), True) for i, d in enumerate(survivals))

    assert branch_point(DensityProfile("depth", layers), rule="longest_survivor") == f"layer{expected}"


@pytest.mark.parametrize(
    ("survivals", "expected"),
    [
        ((1.0, 1.0, 0.8, 0.5), 2),  # cheap layers outlive what the task needs
        ((1.0, 0.4, 0.8, 0.5), 2),
        ((0.3, 0.4, 0.74, 0.7), 2),  # nothing lives so long: the longest survivor
    ],
)
def test_deepest_survivor_is_the_deepest_past_the_point(survivals, expected):
    layers = tuple(LayerEvidence(f"layer{i}", (d,), True) for i, d in enumerate(survivals))
    found = DensityProfile("depth", layers)

    assert branch_point(found, rule="deepest_survivor", activity=0.75) == f"layer{expected}"


def test_activity_is_the_share_that_must_survive():
    layers = tuple(LayerEvidence(f"layer{i}", (d,), True) for i, d in enumerate((0.9, 0.05, 0.04)))
    found = DensityProfile("depth", layers)

    assert branch_point(found, activity=0.01) == "layer2"
    assert branch_point(found, activity=0.1) == "layer0"


@pytest.mark.parametrize("rule", RULES)
def test_backbone_in_which_no_layer_can_die_is_kept_whole(rule):
    assert branch_point(profile("####", "    "), rule=rule) == "layer3"


def test_unknown_rule_is_named():
    with pytest.raises(UnknownNameError, match="Unknown rule `deepest_act`, did you mean `deepest_active`"):
        branch_point(profile("##"), rule="deepest_act")


def test_empty_profile_is_refused():
    with pytest.raises(ValueError, match="profile of task `depth` to have layers"):
        branch_point(DensityProfile("depth", ()))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_answers_with_a_layer_of_the_profile(rule):
    for pattern in ("#", "-", "#-#-#-", "------", "######"):
        found = profile(pattern)
        assert branch_point(found, rule=rule) in {e.layer for e in found.layers}
