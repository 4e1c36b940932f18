"""A small valid recipe to make mistakes in."""

import copy

import pytest

from lomt.errors import RecipeError
from lomt.recipe import parse_recipe

BASE = {
    "name": "small",
    "data": {"kind": "rooms", "size": [96, 128], "counts": {"train": 8, "validation": 4, "test": 4}},
    "tasks": {"depth": {"kind": "depth"}, "edges": {"kind": "edges"}},
    "model": {"backbone": {"name": "resnet18"}},
    "train": {"epochs": 2, "optimizer": {"lr": 0.001}},
}


@pytest.fixture
def base():
    """Return the recipe as YAML would give it."""
    return copy.deepcopy(BASE)


@pytest.fixture
def problems_of(base):
    """Return a function from overrides to the problems of the recipe with them, none if it is valid."""

    def find(*overrides, raw=None, check_names=False):
        try:
            parse_recipe(base if raw is None else raw, overrides, check_names=check_names)
        except RecipeError as error:
            return list(error.problems)
        return []

    return find
