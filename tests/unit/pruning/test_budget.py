import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lomt.errors import UnknownNameError
from lomt.pruning.budget import BudgetError, choose_channels, count_channels
from lomt.pruning.ranking import RANKINGS, rank_channels, width_step
from tests.reference import channel_budget as reference
from tests.reference.hand_structure import HandStructure, chain, coupled_channels, two_tasks

KINDS = ("channels", "params", "macs")


def costs_of(structure):
    return {
        "channels": lambda keep: count_channels(structure, keep),
        "params": structure.params,
        "macs": structure.macs,
    }


PROBLEMS = st.fixed_dictionaries(
    {
        "widths": st.lists(st.integers(1, 20), min_size=3, max_size=6),
        "seed": st.integers(0, 999),
        "levels": st.sampled_from([2, 1000]),  # few or many different scores
        "some_must_stay": st.booleans(),
        "kind": st.sampled_from(KINDS),
        "divisor": st.integers(1, 8),
        "ranking": st.sampled_from(list(RANKINGS)),
        "minimum": st.sampled_from([0.0, 0.1, 0.25, 0.5]),
    }
)


def build(widths, seed, levels, some_must_stay, kind, **options):
    """A chain of layers with scores, more arguments for `choose_channels`, and the kind of budget."""
    structure = chain(widths)
    generator = torch.Generator().manual_seed(seed)
    counts = {c.name: c.count for c in structure.prunable}
    scores = {n: (levels * torch.rand(count, generator=generator)).round() for n, count in counts.items()}
    share = 0.3 if some_must_stay else 0.0
    options["must_stay"] = {n: torch.rand(c, generator=generator) < share for n, c in counts.items()}
    return structure, scores, options, kind


def least_fraction(structure, scores, options, kind):
    """The smallest budget that can be met."""
    order = rank_channels(structure, scores, **options)
    cost = costs_of(structure)[kind]
    return cost(order.keep(order.removed(len(order.order)))) / cost({})


def reachable(problem, share):
    """A budget between the smallest that can be met and the whole."""
    least = least_fraction(*problem)
    return least + share * (1 - least)


@settings(max_examples=80, deadline=None)
@given(drawn=PROBLEMS, fraction=st.floats(0.02, 1))
def test_a_budget_is_met_or_refused_and_all_limits_are_kept(drawn, fraction):
    structure, scores, options, kind = build(**drawn)
    cost = costs_of(structure)[kind]
    least = least_fraction(structure, scores, options, kind)
    if least > fraction * (1 + 1e-9):
        with pytest.raises(BudgetError, match=f"Expected `{kind}` to be at least"):
            choose_channels(structure, scores, **{kind: fraction}, **options)
        return
    keep = choose_channels(structure, scores, **{kind: fraction}, **options)
    assert cost(keep) <= fraction * cost({}) * (1 + 1e-9)
    counts = {c.name: c.count for c in structure.prunable}
    assert set(keep) <= set(counts), "only prunable channels go"
    for name, mask in keep.items():
        width, must_stay = int(mask.sum()), options["must_stay"][name]
        assert 0 < width < counts[name] and width % options["divisor"] == 0
        assert width >= options["minimum"] * counts[name]
        assert mask[must_stay].all()
        lost, kept = scores[name][~mask], scores[name][mask & ~must_stay]
        assert not len(kept) or lost.max() <= kept.min(), "higher scores stay"


@settings(max_examples=40, deadline=None)
@given(drawn=PROBLEMS, fraction=st.floats(0, 1))
def test_no_layer_could_have_one_block_more(drawn, fraction):
    structure, scores, options, kind = problem = build(**drawn)
    fraction = reachable(problem, fraction)
    cost = costs_of(structure)[kind]
    keep = choose_channels(structure, scores, **{kind: fraction}, **options)
    for name, mask in keep.items():
        removed = (~mask).nonzero().flatten()
        left, divisor = int(mask.sum()), options["divisor"]
        size = min(divisor, len(mask) - left)
        back = removed[torch.argsort(scores[name][removed], descending=True, stable=True)][:size]
        more = mask.clone()
        more[back] = True
        assert cost({**keep, name: more}) > fraction * cost({})
        assert int(more.sum()) == min(left + divisor, len(mask))


@settings(max_examples=40, deadline=None)
@given(drawn=PROBLEMS, fractions=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_a_larger_budget_leaves_no_less(drawn, fractions):
    structure, scores, options, kind = problem = build(**drawn)
    low, high = sorted(reachable(problem, fraction) for fraction in fractions)
    cost = costs_of(structure)[kind]
    small, large = (
        choose_channels(structure, scores, **{kind: fraction}, **options) for fraction in (low, high)
    )
    assert cost(small) <= cost(large)


@settings(max_examples=50, deadline=None)
@given(
    widths=st.lists(st.integers(1, 12), min_size=3, max_size=5),
    divisor=st.integers(1, 5),
    kind=st.sampled_from(KINDS),
    fraction=st.integers(10, 100).map(lambda percent: percent / 100),
    seed=st.integers(0, 99),
)
def test_global_choice_is_that_of_removing_one_block_after_the_other(widths, divisor, kind, fraction, seed):
    structure = chain(widths)
    generator = torch.Generator().manual_seed(seed)
    scores = {c.name: torch.rand(c.count, generator=generator).double() for c in structure.prunable}
    cost = costs_of(structure)[kind]
    least = {c.name: math.ceil(0.25 * c.count) for c in structure.prunable}
    expected = reference.choose(structure, scores, cost, fraction * cost({}), divisor, least)
    if expected is None:
        with pytest.raises(BudgetError):
            choose_channels(structure, scores, **{kind: fraction}, divisor=divisor, minimum=0.25)
        return
    keep = choose_channels(structure, scores, **{kind: fraction}, divisor=divisor, minimum=0.25)
    for name, mask in expected.items():
        assert torch.equal(keep.get(name, torch.ones_like(mask)), mask)


def pair(first, second):
    """A chain with two prunable layers of these scores."""
    scores = {"0": torch.tensor(first), "1": torch.tensor(second)}
    return chain([2, len(first), len(second), 2]), scores


def widths_of(structure, keep):
    return {c.name: int(keep[c.name].sum()) if c.name in keep else c.count for c in structure.prunable}


def test_global_ranking_takes_the_lowest_wherever_they_are():
    structure, scores = pair([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 0.0, 7.0])
    keep = choose_channels(structure, scores, channels=0.5, divisor=1)
    assert keep["0"].tolist() == [False, False, False, True]
    assert keep["1"].tolist() == [True, True, False, True]


def test_layer_ranking_takes_the_same_fraction_of_every_layer():
    structure, scores = pair([1.0, 2.0, 3.0, 4.0], [50.0] * 8)
    keep = choose_channels(structure, scores, channels=0.5, divisor=1, ranking="layer")
    assert widths_of(structure, keep) == {"0": 2, "1": 4}


def test_component_ranking_takes_the_same_fraction_of_every_component():
    structure = chain([2, 8, 8, 8, 8, 2])  # 0 and 2 are shared, 1 and 3 the decoder's
    values = {"0": 1.0, "1": 10.0, "2": 2.0, "3": 20.0}
    scores = {name: torch.full((8,), value) for name, value in values.items()}
    keep = choose_channels(structure, scores, channels=0.625, divisor=2, ranking="component")
    assert widths_of(structure, keep) == {"0": 2, "1": 2, "2": 8, "3": 8}
    everywhere = choose_channels(structure, scores, channels=0.625, divisor=2)
    assert widths_of(structure, everywhere) == {"0": 2, "1": 8, "2": 2, "3": 8}


def test_a_component_at_its_least_widths_leaves_the_rest_to_others():
    structure = chain([2, 8, 8, 2])
    scores = {name: torch.ones(8) for name in "01"}
    must_stay = {"0": torch.ones(8, dtype=torch.bool)}
    keep = choose_channels(
        structure, scores, channels=0.75, divisor=1, ranking="component", must_stay=must_stay
    )
    assert widths_of(structure, keep) == {"0": 8, "1": 4}


def test_a_block_counts_as_its_channels_mean():
    # First by mean: the block (0, 9) of layer 1 is worth 4.5, that of layer 0 is worth 4.
    structure, scores = pair([4.0, 4.0, 20.0, 20.0], [0.0, 9.0, 20.0, 20.0])
    keep = choose_channels(structure, scores, channels=0.75, divisor=2)
    assert widths_of(structure, keep) == {"0": 2, "1": 4}


def test_blocks_come_back_where_they_fit():
    # Small layer first in the ranking; the large block that meets the budget makes its removal needless.
    structure, scores = pair([1.0, 1.0], [2.0] * 8)
    keep = choose_channels(structure, scores, channels=0.6, divisor={"0": 1, "1": 4})
    assert widths_of(structure, keep) == {"0": 2, "1": 4}


def test_a_fraction_that_is_no_binary_number_is_met_exactly():
    structure = chain([1, 100, 1])
    scores = {"0": torch.arange(100.0)}
    for hundredths in (*range(10, 101, 9), 29, 57, 58):
        keep = choose_channels(structure, scores, channels=hundredths / 100, divisor=1)
        assert count_channels(structure, keep) == hundredths


def test_of_equal_scores_the_later_channel_goes():
    structure, scores = pair([1.0] * 4, [2.0])
    keep = choose_channels(structure, scores, channels=0.6, divisor=1)
    assert keep["0"].tolist() == [True, True, False, False]


def test_a_whole_budget_removes_nothing():
    structure, scores = pair([1.0] * 4, [2.0] * 4)
    for kind in KINDS:
        assert choose_channels(structure, scores, **{kind: 1}, divisor=1) == {}


def test_a_function_says_which_widths_are_allowed():
    structure, scores = pair([1.0] * 8, [1.0] * 8)
    allowed = {"0": [0, 3, 8, 100], "1": []}
    keep = choose_channels(structure, scores, channels=0.9, divisor=lambda name, count: allowed[name])
    assert widths_of(structure, keep) == {"0": 3, "1": 8}


def test_widths_are_counted_in_positions_of_tensors():
    # Six heads of 16: every number of heads is a multiple of 8, and every second one of 32.
    heads = coupled_channels(
        "heads", 6, ("qkv", 0, "producer", 48), ("proj", 1, "consumer", 16), ("bias", 0, "scale")
    )
    assert [width_step(heads, divisor) for divisor in (1, 8, 32, 96)] == [1, 1, 2, 6]
    structure = HandStructure((heads,), {"proj": (4, 96)}, {})
    keep = choose_channels(structure, {"heads": torch.arange(6.0)}, channels=0.5)
    assert keep["heads"].tolist() == [False, False, False, True, True, True]


def test_by_default_widths_are_multiples_of_16_and_8_where_nothing_else_is_left():
    structure = chain([4, 40, 16, 64, 4])
    scores = {c.name: torch.rand(c.count, dtype=torch.float64) for c in structure.prunable}
    order = rank_channels(structure, scores)
    assert [layer.widths for layer in order.layers] == [(40, 32, 16, 8), (16, 8), (64, 48, 32, 16, 8)]
    narrow = [layer for layer, blocks in order.removed(5).items() if order.layers[layer].widths[blocks] < 16]
    assert len(order.order) == 8
    assert narrow == []
    for ranking in RANKINGS:
        for blocks in range(6):
            gone = rank_channels(structure, scores, ranking=ranking).removed(blocks)
            assert all(order.layers[layer].widths[count] >= 16 for layer, count in gone.items())


def test_by_default_heads_as_wide_as_a_kernel_go_one_by_one():
    heads = coupled_channels(
        "heads", 6, ("qkv", 0, "producer", 96), ("proj", 1, "consumer", 32), ("bias", 0, "scale")
    )
    structure = HandStructure((heads,), {"proj": (4, 192)}, {})
    (layer,) = rank_channels(structure, {"heads": torch.arange(6.0)}).layers
    assert layer.widths == (6, 5, 4, 3, 2, 1)


def test_a_flattened_map_does_not_make_single_channels_wide():
    _, structure, _ = two_tasks()
    label = next(c for c in structure.coupled if c.name == "label.0")
    assert width_step(label, 8) == 8


def test_counting_is_asked_few_times():
    structure = chain([4] + [256] * 6 + [4])
    scores = {c.name: torch.rand(256) for c in structure.prunable}
    asked = itertools.count()

    class Counting:
        coupled, prunable, macs, component = (
            structure.coupled,
            structure.prunable,
            structure.macs,
            structure.component,
        )

        def params(self, keep):
            next(asked)
            return structure.params(keep)

    choose_channels(Counting(), scores, params=0.3, divisor=1)
    # Two ends, the bisection of 1,400 blocks, and one refusal a layer with what came back.
    assert next(asked) <= 2 + 11 + 3 * 6


@pytest.mark.parametrize(
    "budgets, got",
    [({}, "none"), ({"channels": 0.5, "macs": 0.5}, "`channels` and `macs`")],
    ids=["none", "two"],
)
def test_just_one_budget_is_wanted(budgets, got):
    structure, scores = pair([1.0], [1.0])
    with pytest.raises(BudgetError, match=f"just one of `channels`, `params` and `macs`, but got {got}."):
        choose_channels(structure, scores, **budgets)


@pytest.mark.parametrize("fraction", [0, -0.5, 1.5, math.nan])
def test_a_budget_that_is_no_fraction_is_refused(fraction):
    structure, scores = pair([1.0], [1.0])
    with pytest.raises(
        BudgetError, match=f"Expected `macs` to be a fraction above 0 and at most 1, but got {fraction}"
    ):
        choose_channels(structure, scores, macs=fraction)


@pytest.mark.parametrize("kind", KINDS)
def test_a_budget_out_of_reach_says_what_is_and_that_works(kind):
    structure, scores = pair([1.0] * 30, [2.0] * 16)
    with pytest.raises(
        BudgetError, match=f"Expected `{kind}` to be at least 0.*or protect fewer layers"
    ) as raised:
        choose_channels(structure, scores, **{kind: 0.001})
    reachable = float(str(raised.value).split("at least ")[1].split(",")[0])
    keep = choose_channels(structure, scores, **{kind: reachable})
    assert widths_of(structure, keep) == {"0": 8, "1": 8}


def test_a_network_with_nothing_prunable_reaches_nothing_less_than_itself():
    structure = chain([4, 4])
    with pytest.raises(BudgetError, match="Expected `params` to be at least 1.0000"):
        choose_channels(structure, {}, params=0.9)
    assert choose_channels(structure, {}, params=1) == {}


BAD = {
    "minimum": ({"minimum": 1.5}, "Expected `minimum` to be between 0 and 1, but got 1.5"),
    "divisor": ({"divisor": 0}, "Expected `divisor` to be at least 1, but got 0"),
    "one divisor": ({"divisor": {"0": 2, "1": -1}}, "Expected `divisor` to be at least 1, but got -1"),
    "divisor missing": (
        {"divisor": {"0": 2}},
        "Expected `divisor` to have one for each layer, but got none for `1`",
    ),
    "divisor unknown": ({"divisor": {"0": 2, "l": 1}}, "Unknown coupled channels `l`. Known are 0, 1, 2"),
    "ranking": ({"ranking": "globl"}, "Unknown ranking `globl`, did you mean `global`?"),
    "mask unknown": ({"must_stay": {"9": torch.ones(4) > 0}}, "Unknown coupled channels `9`"),
    "mask shape": (
        {"must_stay": {"0": torch.ones(3) > 0}},
        r"mask of `0` in `must_stay` to be of shape \(4,\), but got \(3,\)",
    ),
    "score missing": ({"scores": {"0": torch.ones(4)}}, "`scores` to have 4 numbers for `1`, but got none"),
    "score shape": (
        {"scores": {"0": torch.ones(4), "1": torch.ones(5)}},
        r"`scores` to have 4 numbers for `1`, but got shape \(5,\)",
    ),
    "score not finite": (
        {"scores": {"0": torch.ones(4), "1": torch.tensor([1, math.nan, 1, 1])}},
        "Expected the scores of `1` to be finite",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_arguments_out_of_range_are_refused(name):
    options, message = BAD[name]
    structure, scores = pair([1.0] * 4, [1.0] * 4)
    with pytest.raises((BudgetError, UnknownNameError), match=message):
        choose_channels(structure, **{"scores": scores, "channels": 0.5, **options})


def test_masks_of_protected_channels_may_be_given():
    structure, scores = pair([1.0] * 4, [1.0] * 4)
    keep = choose_channels(
        structure, scores, channels=0.5, divisor=1, must_stay={"2": torch.ones(2, dtype=torch.bool)}
    )
    assert "2" not in keep
