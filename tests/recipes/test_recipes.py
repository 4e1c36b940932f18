"""Every shipped recipe is valid, portable, and says what it is."""

from pathlib import Path

import pytest

from lomt.recipe import Recipe, load_recipe, shipped_paths

PATHS = shipped_paths()


def test_there_are_recipes():
    assert {"rooms_demo", "rooms_prune", "rooms_sparsify", "nyuv2_lite0_lomt", "nyuv2_resnet50_lomt"} <= set(
        PATHS
    )


@pytest.fixture(scope="module", params=sorted(PATHS))
def name(request):
    """Return the name of each shipped recipe."""
    return request.param


@pytest.fixture(scope="module")
def recipe(name):
    """Return the recipe, validated with all names looked up."""
    return load_recipe(name)


def test_it_is_valid_and_named_after_its_file(name, recipe):
    assert recipe.name == name


def test_it_survives_being_stored(recipe):
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_it_names_no_place_on_anyones_machine(recipe):
    for path in (recipe.data.root, recipe.model.backbone.weights):
        assert path is None or not (Path(path).is_absolute() or ".." in path or "~" in path)


def test_its_first_lines_give_purpose_command_and_expectation(name):
    heading = PATHS[name].read_text().partition("name: ")[0]
    assert all(line.startswith("#") for line in heading.splitlines())
    assert heading.splitlines()[0].endswith(".")
    assert f"lomt run {name}" in heading
    assert "Expected: " in heading
    assert max(map(len, PATHS[name].read_text().splitlines())) <= 120


def test_every_published_layout_has_a_recipe():
    from lomt.data import LAYOUTS

    kinds = {load_recipe(name, check_names=False).data.kind for name in PATHS}
    assert set(LAYOUTS) <= kinds


def test_recipes_ask_for_targets_that_their_layouts_have(tmp_path):
    pytest.importorskip("h5py", reason="NYU-v2's file needs h5py")
    from reference.published_sets import WRITERS

    from lomt.data import open_published

    for name in PATHS:
        recipe = load_recipe(name, check_names=False)
        if (kind := recipe.data.kind) not in WRITERS:
            continue
        root = tmp_path / kind
        if not root.exists():
            root.mkdir()
            WRITERS[kind](root)
        targets = open_published(kind, root).targets
        for task, settings in recipe.tasks.items():
            assert targets[settings.target or task].kind == settings.kind, (name, task)


def test_the_celebamask_recipe_has_the_papers_numbers():
    recipe = load_recipe("celebamask_resnet50_lomt", check_names=False)
    assert recipe.data.size == (256, 256)
    assert (recipe.train.epochs, recipe.train.batch_size, recipe.locate.train.batch_size) == (300, 64, 32)
    assert (recipe.train.optimizer.lr, recipe.locate.train.optimizer.lr) == (1e-4, 1e-5)
    assert recipe.train.optimizer.weight_decay == recipe.locate.train.optimizer.weight_decay == 0.1
    assert len(recipe.tasks) == 7


def test_the_paper_recipe_has_the_papers_numbers():
    recipe = load_recipe("nyuv2_resnet50_lomt", check_names=False)
    assert recipe.data.size == (256, 256)
    assert (recipe.model.decoder.width, recipe.model.decoder.rates) == (256, [12, 24, 36])
    assert (recipe.train.optimizer.lr, recipe.train.optimizer.weight_decay) == (1e-4, 0.01)
    locate = recipe.locate
    assert (locate.train.optimizer.lr, locate.train.optimizer.weight_decay) == (1e-5, 0.1)
    assert (locate.lambdas.start, locate.lambdas.stop, locate.lambdas.count) == (1e-4, 1e-3, 10)
    assert (locate.train.epochs, locate.train.batch_size, locate.seeds) == (800, 16, 3)
    assert locate.train.early_stopping.patience == 15
    assert (recipe.data.augment.flip, recipe.data.augment.scale) == (0.0, (1.0, 1.0))
