import json

import pytest
import torch

from lomt.sparsity.baselines import MaskAgreement, mask_agreement

MASKS = {
    "depth": {
        "stem": torch.tensor([[True, True], [False, True]]),
        "deep": torch.tensor([True, False, False]),
        "depth": torch.tensor([True]),
        "none": torch.tensor([False]),
    },
    "label": {
        "stem": torch.tensor([[True, True], [False, False]]),
        "deep": torch.tensor([False, False, True]),
        "none": torch.tensor([False]),
    },
    "edges": {"stem": torch.tensor([[True, True], [True, True]])},
}


def test_intersections_over_unions_by_hand():
    table = mask_agreement(MASKS)

    assert [layer.name for layer in table.layers] == ["stem", "deep", "none"]
    stem, deep, none = table.layers
    assert (stem.iou, stem.count, dict(stem.kept)) == (2 / 4, 4, {"depth": 3, "label": 2, "edges": 4})
    assert stem.pairwise == pytest.approx((2 / 3 + 3 / 4 + 2 / 4) / 3)
    assert (deep.iou, deep.pairwise) == (0, 0)
    assert none.iou == 1


def test_the_same_masks_agree_and_their_order_does_not_matter():
    same = mask_agreement({"a": MASKS["depth"], "b": MASKS["depth"]})
    assert all(layer.iou == layer.pairwise == 1 for layer in same.layers)
    turned = mask_agreement(dict(reversed(MASKS.items())))
    assert {x.name: x.iou for x in turned.layers} == {x.name: x.iou for x in mask_agreement(MASKS).layers}


def agreement(*ious):
    masks = [(torch.arange(10) < 10, torch.arange(10) < 10 * iou) for iou in ious]
    return mask_agreement(
        {task: {f"blocks.{i}.w": pair[k] for i, pair in enumerate(masks)} for k, task in enumerate("ab")}
    )


def test_the_watershed_is_where_agreement_ends_for_good():
    assert agreement(0.9, 0.3, 0.8, 0.2, 0.1).watershed() == "blocks.3.w"
    assert agreement(0.9, 0.8).watershed() is None
    assert agreement(0.9, 0.8).watershed(0.95) == "blocks.0.w"


def test_stages_are_means():
    table = agreement(1.0, 0.5, 0.2)
    assert table.stages(lambda name: "early" if name < "blocks.2" else "late") == {"early": 0.75, "late": 0.2}


def test_it_prints_and_stores():
    table = mask_agreement(MASKS)
    lines = str(table).splitlines()
    assert lines[0].split() == [
        "layer",
        *["depth", "keeps", "label", "keeps", "edges", "keeps"],
        "IoU",
        "in",
        "pairs",
    ]
    assert lines[2].split() == ["deep", "33.3%", "33.3%", "0.000", "0.000"]
    assert MaskAgreement.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    assert str(mask_agreement({"a": MASKS["depth"]})) == "No layer is used by more than one task."


def test_what_is_no_table():
    with pytest.raises(
        ValueError, match="^Expected a table of agreement with `layers` of name, count, kept, iou,"
    ):
        MaskAgreement.from_dict({"layers": [{"name": "a"}]})
