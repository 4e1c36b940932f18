import pytest

from lomt.branching import density_profile, survival_profiles
from lomt.models import Layer
from lomt.sparsity import LayerSparsity, SparsityReport


def layer(name, *, is_bypassable=True, kind="block"):
    return Layer(name, kind, channels=8, reduction=8, params=1, macs=1, is_bypassable=is_bypassable)


def report(**zero_of_100):
    return SparsityReport(
        tuple(
            LayerSparsity(name.replace("_", "."), "backbone", 100, zero, 9)
            for name, zero in zero_of_100.items()
        )
    )


def convs(*names, dead_ends=()):
    return [layer(name, kind="conv", is_bypassable=name not in dead_ends) for name in names]


def test_density_of_a_block_is_that_of_its_sparsest_convolution():
    layers = [*convs("b.conv1", "b.conv2"), layer("b")]
    profile = density_profile("depth", [report(b_conv1=20, b_conv2=70)], layers)

    assert [e.layer for e in profile.layers] == ["b"]
    assert profile.layers[0].densities == pytest.approx((0.3,))


def test_shortcuts_and_gates_do_not_count():
    found = report(b_conv1=20, b_downsample_0=100, b_se_conv=100)
    layers = [*convs("b.conv1", "b.downsample.0"), layer("b")]

    assert density_profile("depth", [found], layers).layers[0].density == pytest.approx(0.8)


def test_block_can_die_when_features_flow_around_each_of_its_convolutions():
    layers = [*convs("a.conv1", "b.conv1", "b.conv2", dead_ends=["b.conv2"]), layer("a"), layer("b")]
    profile = density_profile("depth", [report(a_conv1=0, b_conv1=0, b_conv2=0)], layers)

    assert [e.is_bypassable for e in profile.layers] == [True, False]


def test_untraceable_backbone_has_stages_that_are_no_evidence():
    stages = [layer("stage1", kind="stage"), layer("stage2", kind="stage")]
    profile = density_profile("depth", [report(stage1_conv1=10, stage2_conv1=60)], stages)

    assert [(e.layer, e.is_bypassable) for e in profile.layers] == [("stage1", False), ("stage2", False)]


def test_trials_are_kept_apart_and_all_must_be_active():
    profile = density_profile("depth", [report(b_conv1=50), report(b_conv1=99)], [layer("b")])

    assert profile.layers[0].densities == pytest.approx((0.5, 0.01))
    assert profile.layers[0].density == pytest.approx(0.255)
    assert not profile.layers[0].is_active(0.01)
    assert profile.layers[0].is_active(0.005)


def test_convolution_layers_and_names_that_begin_alike():
    found = report(b_conv1=10, b_conv10=90)
    profile = density_profile(
        "depth", [found], [layer("b.conv1", kind="conv"), layer("b.conv10", kind="conv")]
    )

    assert [e.density for e in profile.layers] == pytest.approx([0.9, 0.1])


def test_layers_without_groups_are_left_out():
    assert density_profile("depth", [report(b_conv1=0)], [layer("b"), layer("pool")]).layers[-1].layer == "b"


def test_no_report_is_refused():
    with pytest.raises(ValueError, match="at least one sparsity report of task `depth`, but got none"):
        density_profile("depth", [], [layer("b")])


def test_survival_of_every_trial_is_kept():
    trials = [{"depth": {"a": 1.0, "b": 0.5}}, {"depth": {"a": 0.8, "b": 0.7}}]
    found = survival_profiles(trials)["depth"]

    assert [(own.layer, own.densities, own.is_bypassable) for own in found.layers] == [
        ("a", (1.0, 0.8), True),
        ("b", (0.5, 0.7), True),
    ]


def test_survival_without_trials_is_refused():
    with pytest.raises(ValueError, match="at least one trial"):
        survival_profiles([])
