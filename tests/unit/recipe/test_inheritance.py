"""Blocks that only say what differs."""

import pytest

from lomt.recipe.inheritance import has_key, merge, resolve, source_of


def test_merge_goes_mapping_by_mapping_and_replaces_everything_else():
    base = {"a": 1, "b": {"c": [1, 2], "d": 3}, "e": None}
    change = {"b": {"c": [9]}, "e": {"f": 1}, "a": None}
    assert merge(base, change) == {"a": None, "b": {"c": [9], "d": 3}, "e": {"f": 1}}
    assert base == {"a": 1, "b": {"c": [1, 2], "d": 3}, "e": None}


def test_stages_inherit_training_and_tasks_inherit_decoders():
    resolved = resolve(
        {
            "train": {"epochs": 5, "optimizer": {"kind": "sgd", "lr": 0.1}},
            "locate": {"seeds": 2, "train": {"optimizer": {"lr": 0.01}}},
            "rewire": None,
            "model": {"decoder": {"kind": "aspp", "width": 32}},
            "tasks": {
                "depth": {"kind": "depth"},
                "edges": {"kind": "edges", "decoder": {"kind": "linear"}},
                "scene": {"kind": "classification", "decoder": {"dropout": 0.2}},
            },
        }
    )
    assert resolved["locate"] == {
        "seeds": 2,
        "train": {"epochs": 5, "optimizer": {"kind": "sgd", "lr": 0.01}},
    }
    assert resolved["rewire"] == {"train": {"epochs": 5, "optimizer": {"kind": "sgd", "lr": 0.1}}}
    assert "prune" not in resolved
    decoders = {name: task["decoder"] for name, task in resolved["tasks"].items()}
    assert decoders == {
        "depth": {"kind": "aspp", "width": 32},
        "edges": {"kind": "linear", "width": 32},
        "scene": {"kind": "classifier", "width": 32, "dropout": 0.2},
    }


def test_a_stage_that_may_be_absent_inherits_where_it_is_there():
    raw = {"train": {"epochs": 5, "batch_size": 4}, "prune": {"macs": 0.5, "train": {"epochs": 1}}}
    assert resolve(raw)["prune"] == {"macs": 0.5, "train": {"epochs": 1, "batch_size": 4}}
    assert "prune" not in resolve({**raw, "prune": None})


def test_resolving_twice_changes_nothing():
    raw = {"train": {"epochs": 1}, "tasks": {"scene": {"kind": "classification"}}, "model": {}}
    assert resolve(resolve(raw)) == resolve(raw)


@pytest.mark.parametrize(
    "raw",
    [
        None,
        3,
        [],
        {"train": 3},
        {"tasks": [1]},
        {"tasks": {"a": 1}},
        {"model": 1, "tasks": {"a": {"kind": []}}},
    ],
)
def test_what_is_malformed_is_left_for_validation(raw):
    resolved = resolve(raw)
    for key in raw if isinstance(raw, dict) else ():
        assert type(resolved[key]) is type(raw[key])


def test_sources_of_inherited_keys():
    assert source_of(("locate", "train", "optimizer", "lr")) == ("train", "optimizer", "lr")
    assert source_of(("rewire", "train")) == ("train",)
    assert source_of(("prune", "train", "epochs")) == ("train", "epochs")
    assert source_of(("tasks", "depth", "decoder", "width")) == ("model", "decoder", "width")
    assert source_of(("train", "epochs")) is None
    assert source_of(("tasks", "depth")) is None


def test_has_key_looks_into_mappings_and_lists():
    raw = {"a": {"b": [10, 20]}, "c": None}
    assert has_key(raw, ("a", "b", 1))
    assert has_key(raw, ("c",))
    assert not has_key(raw, ("a", "b", 2))
    assert not has_key(raw, ("c", "d"))
    assert not has_key(raw, ("a", "x"))
