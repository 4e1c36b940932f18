"""Findings of the validation in words."""

import pytest

from lomt.recipe.problems import Problem, did_you_mean, show


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("train.epochs=0", "`train.epochs`: expected a number of at least 1, but got 0."),
        ("train.epochs='3'", '`train.epochs`: expected an integer, but got "3".'),
        ("train.epochs=1.5", "`train.epochs`: expected an integer, but got 1.5."),
        ("train.epochs=true", "`train.epochs`: expected an integer, but got true."),
        ("train.optimizer.lr=fast", '`train.optimizer.lr`: expected a number, but got "fast".'),
        ("train.optimizer.lr=0", "`train.optimizer.lr`: expected a number of more than 0, but got 0."),
        ("train.optimizer.lr=.nan", "`train.optimizer.lr`: expected a finite number, but got NaN."),
        ("data.cache=yes", '`data.cache`: expected true or false, but got "yes".'),
        ("data.root=3", "`data.root`: expected text, but got 3."),
        ("data.size=96", "`data.size`: expected a list, but got 96."),
        ("data.size=[96]", "`data.size`: expected 2 values, but got [96]."),
        ("data.size=[96, 1, 2]", "`data.size`: expected 2 values, but got [96, 1, 2]."),
        ("data.size=[96, 0]", "`data.size.1`: expected a number of at least 1, but got 0."),
        ("data.mean=[0.5]", "`data.mean`: expected 3 values, but got [0.5]."),
        (
            "data.validation_fraction=1",
            "`data.validation_fraction`: expected a number of less than 1, but got 1.",
        ),
        ("data.augment.flip=1.5", "`data.augment.flip`: expected a number of at most 1, but got 1.5."),
        ("bench.threads=[]", "`bench.threads`: expected at least one entry, but got none."),
        ("model=3", "`model`: expected a mapping, but got 3."),
        ("model.decoders={depth: 3}", "`model.decoders.depth`: expected a list or text, but got 3."),
        (
            "rewire.branch_points={depth: 3, edges: layer1}",
            "`rewire.branch_points.depth`: expected a mapping or text, but got 3.",
        ),
        (
            "locate.lambdas.start=-0.1",
            "`locate.lambdas.start`: expected a number of more than 0, but got -0.1.",
        ),
        (
            "locate.metric=adm",
            '`locate.metric`: expected one of adam, euclidean, but got "adm", did you mean `adam`?',
        ),
        (
            "model.backbone.output_stride=4",
            "`model.backbone.output_stride`: expected one of 8, 16, 32, but got 4.",
        ),
        ("version=2", "`version`: expected 1, but got 2."),
        (
            "trian.epochs=3",
            "`trian`: unknown key, did you mean `train`? Known are version, name, seed, device, threads, "
            "data, tasks, target, target_alone, model, train, locate, rewire, sparsify, prune, finetune, group, add, "
            "export, quantize, bench.",
        ),
        (
            "bench.thread=3",
            "`bench.thread`: unknown key, did you mean `threads`? Known are threads, batch, rounds, seconds, "
            "quick, delta_m.",
        ),
        (
            "model.backbone.zzz=1",
            "`model.backbone.zzz`: unknown key. Known are name, path, output_stride, weights, options.",
        ),
        (
            "name=a/b",
            '`name`: expected letters, digits, `.`, `_` and `-`, a letter or digit first, but got "a/b".',
        ),
    ],
)
def test_one_mistake(problems_of, override, problem):
    assert problems_of(override) == [problem]


def test_a_mistake_inside_of_one_of_several_forms_is_that_of_the_form(problems_of):
    found = problems_of("model.decoders={depth: [up, 3]}")
    assert "`model.decoders.depth.1`: expected text, but got 3." in found
    assert not any("`model.decoders.depth`" in problem for problem in found)


def test_a_missing_key_is_named(problems_of, base):
    del base["train"]["epochs"]
    assert problems_of() == ["`train.epochs`: a value is needed, but the key is missing."]


def test_a_missing_block_is_named_once(problems_of, base):
    del base["train"]
    assert problems_of() == ["`train`: a value is needed, but the key is missing."]


def test_a_task_name_that_is_none_is_refused(problems_of):
    expected = "letters, digits and `_`, a letter first"
    assert problems_of("tasks={a-b: {kind: depth}}") == [f'`tasks.a-b`: expected {expected}, but got "a-b".']


def test_no_task_at_all_is_refused(problems_of):
    assert problems_of("tasks={}") == ["`tasks`: expected at least one entry, but got none."]


def test_inherited_mistakes_are_reported_where_they_were_made(problems_of):
    assert problems_of("train.optimizer.lr=-1", "model.decoder.width=0") == [
        "`model.decoder.width`: expected a number of at least 1, but got 0.",
        "`train.optimizer.lr`: expected a number of more than 0, but got -1.",
    ]


def test_mistakes_of_an_inheriting_block_have_its_own_path(problems_of):
    assert problems_of("locate.train.epochs=0", "tasks.edges.decoder.width=0", "rewire.train.x=1")[:2] == [
        "`locate.train.epochs`: expected a number of at least 1, but got 0.",
        "`rewire.train.x`: unknown key. Known are epochs, batch_size, accumulation_steps, precision, "
        "optimizer, schedule, weighting, weighting_options, aggregation, "
        "aggregation_options, gradient_clip, early_stopping, keep, checkpoint_s, tensorboard.",
    ]


def test_a_mistake_repeated_in_an_inheriting_block_is_reported_twice(problems_of):
    found = problems_of("train.epochs=0", "locate.train.epochs=0")
    assert [text.partition(":")[0] for text in found] == ["`locate.train.epochs`", "`train.epochs`"]


def test_problems_are_sorted_by_key(problems_of):
    found = problems_of("train.epochs=0", "bench.batch=0", "name=''", "data.size=3", "locate.seeds=0")
    keys = [text.partition(":")[0].strip("`") for text in found]
    assert keys == ["bench.batch", "data.size", "locate.seeds", "name", "train.epochs"]


def test_long_values_are_shortened():
    assert show(list(range(100))).endswith("...")
    assert len(show("x" * 100)) == 60
    assert show({"a": 1}) == "a mapping"
    assert show(float("inf")) == "Infinity"
    assert show(b"ab") == "b'ab'"


def test_names_far_from_all_known_ones_get_no_suggestion():
    assert did_you_mean("depht", ["depth", "edges"]) == ", did you mean `depth`?"
    assert did_you_mean("qqq", ["depth", "edges"]) == ""


def test_a_problem_without_a_key_is_its_text():
    assert str(Problem((), "text")) == "text"
    assert str(Problem(("a", 0), "text")) == "`a.0`: text"
