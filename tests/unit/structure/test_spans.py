from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lomt.structure.spans import Span, join, multiply, owners, regroup, slice_up, unify


def leaf_names(span, names):
    return [names[leaf] for leaf in span.leaves()]


def test_a_product_of_one_span_and_of_spans_of_size_one_is_that_span():
    channels = Span(6)
    assert multiply([Span(1), channels, Span(1)]) is channels
    assert multiply([]).size == 1


def test_a_sequence_of_one_span_is_that_span():
    channels = Span(6)
    assert join([Span(0), channels]) is channels
    assert join([]).size == 0


def test_unified_leaves_are_one_and_keep_reasons_and_mixers_of_both():
    first, second = Span(4, "because"), Span(4)
    second.mix("a norm")
    unify(second, first)
    assert first.root is second.root
    assert second.fixed == "because"
    assert first.mixers == ("a norm",)


def test_the_first_reason_counts():
    channels = Span(3)
    channels.fix("first")
    channels.fix("second")
    assert channels.fixed == "first"


def test_unifying_a_leaf_with_a_product_makes_it_the_product():
    heads, width, whole = Span(2), Span(3), Span(6)
    unify(whole, multiply([heads, width]))
    assert list(whole.leaves()) == [heads, width]


def test_unifying_two_sequences_cuts_both_where_either_is_cut():
    a, b, c, d = Span(2), Span(4), Span(3), Span(3)
    first, second = join([a, b]), join([c, d])
    unify(first, second)
    assert [leaf.size for leaf in first.leaves()] == [2, 1, 3]
    assert list(first.leaves()) == list(second.leaves())


def test_unifying_two_products_factors_both():
    first, second = multiply([Span(2), Span(6)]), multiply([Span(4), Span(3)])
    unify(first, second)
    assert [leaf.size for leaf in first.leaves()] == [2, 2, 3]
    assert list(first.leaves()) == list(second.leaves())


def test_a_sequence_and_a_product_that_fit_share_the_inner_factor():
    inner, outer = Span(2), Span(3)
    product, sequence = multiply([outer, inner]), join([Span(2), Span(4)])
    unify(product, sequence)
    assert [leaf.size for leaf in sequence.leaves()] == [2, 2, 2]
    assert [piece.factors[-1].root for piece in sequence.pieces] == [inner.root] * 2
    assert [leaf.size for leaf in outer.leaves()] == [1, 2]


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (lambda: Span(4), lambda: Span(5), "sizes that do not agree"),
        (
            lambda: multiply([Span(2), Span(3)]),
            lambda: join([Span(3), Span(3)]),
            None,
        ),
        (
            lambda: multiply([Span(2), Span(4)]),
            lambda: join([Span(3), Span(5)]),
            "a reshape that does not fit a concatenation",
        ),
        (
            lambda: multiply([Span(2), Span(3)]),
            lambda: multiply([Span(3), Span(2)]),
            "reshapes that do not fit each other",
        ),
    ],
    ids=["sizes", "fit", "sequence", "products"],
)
def test_what_cannot_be_brought_together_is_fixed_with_a_reason(first, second, reason):
    one, other = first(), second()
    unify(one, other)
    assert {leaf.fixed for leaf in (*one.leaves(), *other.leaves())} == {reason}


def test_a_leaf_is_cut_into_parts_that_keep_what_was_known_of_it():
    whole = Span(6)
    whole.mix("a norm")
    left, right = slice_up(whole, [2, 4])
    assert [left.size, right.size] == [2, 4]
    assert list(whole.leaves()) == [left, right]
    assert left.mixers == right.mixers == ("a norm",)


def test_cutting_a_fixed_leaf_leaves_it_whole():
    whole = Span(6, "an output")
    parts = slice_up(whole, [2, 4])
    assert whole.is_leaf
    assert [part.fixed for part in parts] == ["an output", "an output"]


def test_cutting_a_product_cuts_its_slowest_factor():
    outer, inner = Span(4), Span(3)
    left, right = slice_up(multiply([outer, inner]), [3, 9])
    assert [own.size for own in left.leaves()] == [3]
    assert [own.size for own in right.leaves()] == [3, 3]
    assert list(outer.leaves())[1] in list(right.leaves())


def test_a_cut_across_the_inner_order_fixes():
    outer, inner = Span(2), Span(3)
    parts = slice_up(multiply([outer, inner]), [2, 4])
    assert outer.fixed == inner.fixed == "a split across its inner order"
    assert [part.fixed for part in parts] == ["a split across its inner order"] * 2


def test_flattening_and_unflattening_returns_the_spans():
    batch, channels, pixels = Span(2), Span(6), Span(5)
    flat = regroup([batch, channels, pixels], [2, 30])
    again = regroup(flat, [2, 6, 5])
    assert again == [batch, channels, pixels]


def test_a_reshape_that_does_not_fit_fixes_all_it_touches():
    spans = [Span(4), Span(3)]
    result = regroup(spans, [6, 2])
    assert {span.fixed for span in spans} == {"a reshape that does not fit its inner order"}
    assert [span.size for span in result] == [6, 2]
    assert {span.fixed for span in result} == {"a reshape that does not fit its inner order"}


def test_fixed_neighbours_are_regrouped_in_any_way():
    channels = Span(6)
    rows, columns = Span(4, "a position"), Span(3, "a position")
    result = regroup([channels, rows, columns], [6, 2, 6])
    assert result[0] is channels
    assert channels.fixed is None
    assert [span.size for span in result] == [6, 2, 6]


def test_an_empty_dimension_stays_empty():
    result = regroup([Span(0), Span(3)], [3, 0])
    assert [span.size for span in result] == [3, 0]


def test_dividing_a_concatenation_divides_its_pieces():
    a, b = Span(4), Span(6)
    outer, inner = regroup([join([a, b])], [5, 2])
    assert [leaf.size for leaf in outer.leaves()] == [2, 3]
    assert inner.size == 2
    assert [leaf.size for leaf in a.leaves()] == [2, 2]


def test_owners_of_a_leaf_are_its_own_indices():
    span = Span(3)
    assert {leaf: index.tolist() for leaf, index in owners(span).items()} == {span: [0, 1, 2]}


def test_owners_in_a_product_count_like_digits():
    slow, fast = Span(2), Span(3)
    found = owners(multiply([slow, fast]))
    assert found[slow].tolist() == [0, 0, 0, 1, 1, 1]
    assert found[fast].tolist() == [0, 1, 2, 0, 1, 2]


def test_owners_in_a_sequence_are_minus_one_outside_their_piece():
    a, b = Span(2), Span(3)
    found = owners(join([a, b, a]))
    assert found[a].tolist() == [0, 1, -1, -1, -1, 0, 1]
    assert found[b].tolist() == [-1, -1, 0, 1, 2, -1, -1]


def test_a_leaf_that_one_index_belongs_to_twice_is_fixed():
    channels = Span(3)
    owners(multiply([channels, channels]))
    assert channels.fixed == "it occurs twice in one dimension"


# Reshapes by random ways: whatever is unified or fixed, indices that are one stay one.

sizes = st.sampled_from(
    [[24], [2, 12], [12, 2], [4, 6], [6, 4], [2, 3, 4], [4, 3, 2], [3, 8], [2, 2, 6], [1, 24]]
)


@settings(max_examples=40, deadline=None)
@given(st.lists(sizes, min_size=1, max_size=4), st.lists(st.integers(1, 23), max_size=2, unique=True))
def test_any_sequence_of_reshapes_and_cuts_keeps_the_size_and_the_place_of_every_index(shapes, cuts):
    whole = Span(24)
    ends = [0, *sorted(cuts), 24]
    slice_up(whole, [end - start for start, end in pairwise(ends)])
    spans = [whole]
    for shape in shapes:
        spans = regroup(spans, shape)
        assert [span.size for span in spans] == shape
    flat = multiply(spans) if len(spans) > 1 else spans[0]
    assert flat.size == 24
    if any(leaf.fixed for leaf in whole.leaves()):
        return
    before, after = owners(whole), owners(flat)
    for leaf, index in after.items():
        if leaf.fixed is None and leaf.size > 1:
            torch.testing.assert_close(before[leaf.root], index)
