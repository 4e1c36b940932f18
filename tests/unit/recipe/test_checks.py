"""Mistakes that lie between two keys."""

import pytest

NO_VALIDATION = "data.counts.validation=0"
WAY_OUT = "Give `data.counts.validation` images, or leave it out."
FOLDER = ("data={kind: folder, root: nyuv2, size: [96, 128]}",)
OWN = "model={factory: 'a.b:c', trained: true}"
IMAGES = ("data={kind: images, root: x, size: [96, 128], targets: original}", OWN)


@pytest.mark.parametrize(
    ("overrides", "problem"),
    [
        (
            ["data={kind: folder, size: [96, 128]}"],
            "`data.root`: a dataset folder is needed for `data.kind: folder`.",
        ),
        (
            [*FOLDER, "data.counts.train=5"],
            "`data.counts`: only for `data.kind: rooms`; a folder has its own splits.",
        ),
        (
            ["data={kind: celebamask, size: [96, 128]}"],
            "`data.root`: a dataset folder is needed for `data.kind: celebamask`.",
        ),
        (["data.cache_dir=x"], "`data.cache_dir`: only for stored datasets; rooms are drawn, not read."),
        (["data.factory=a.b:c"], "`data.factory`: only for `data.kind: factory`."),
        (
            ["data={kind: factory, size: [96, 128]}"],
            "`data.factory`: a factory is needed for `data.kind: factory`.",
        ),
        (
            ["data={kind: factory, factory: a.b:c, size: [96, 128], root: x}"],
            "`data.root`: not for `data.kind: factory`, which makes its own splits.",
        ),
        (
            [
                "data={kind: mtfl, root: x, size: [96, 128]}",
                "tasks.pose={kind: classification, decoder: {kind: classifier}}",
            ],
            "`data.augment.flip`: expected 0, because target `pose` would not follow.",
        ),
        (
            [
                "data={kind: mtfl, root: x, size: [96, 128], augment: {flip: 0.0, scale: [1, 1.5]}}",
                "tasks.points={kind: regression, target: landmarks, decoder: {kind: classifier}}",
            ],
            "`data.augment.scale`: expected 1, 1, because target `landmarks` would not follow.",
        ),
        (["data.root=x"], "`data.root`: only for stored datasets; rooms are drawn, not read."),
        (
            ["data.validation_fraction=0.1"],
            "`data.validation_fraction`: only for stored datasets; for rooms set `data.counts.validation`.",
        ),
        (
            ["rewire.train.batch_size=1"],
            "`rewire.train.batch_size`: expected at least 2, "
            "because aspp normalises over the batch, but got 1.",
        ),
        (
            ["data.augment.scale=[1.5, 1]"],
            "`data.augment.scale`: expected the smallest factor before the largest, but got 1.5, 1.",
        ),
        (
            ["tasks.backbone={kind: depth}"],
            "`tasks.backbone`: `backbone` has a meaning of its own; choose another task name.",
        ),
        (
            ["tasks.image={kind: depth}"],
            "`tasks.image`: `image` has a meaning of its own; choose another task name.",
        ),
        (
            ["tasks.scene={kind: classification, decoder: {kind: aspp}}"],
            "`tasks.scene.decoder.kind`: "
            "expected classifier or linear for kind classification, but got aspp.",
        ),
        (
            ["tasks.edges.decoder.kind=classifier"],
            "`tasks.edges.decoder.kind`: expected aspp or linear for kind edges, but got classifier.",
        ),
        (
            ["device=cpu", "train.precision=fp16"],
            "`train.precision`: fp16 needs a GPU; use bf16 or fp32 with `device: cpu`.",
        ),
        (
            [NO_VALIDATION, "train.early_stopping.patience=3"],
            f"`train.early_stopping`: needs validation data, and there is none. {WAY_OUT}",
        ),
        (
            [NO_VALIDATION, "rewire.train.early_stopping.patience=3"],
            f"`rewire.train.early_stopping`: needs validation data, and there is none. {WAY_OUT}",
        ),
        (
            [NO_VALIDATION, "train.keep=best"],
            "`train.keep`: best needs validation data, and there is none. "
            "Give `data.counts.validation` images, or keep last.",
        ),
        (
            [NO_VALIDATION, "locate.train.schedule.kind=plateau"],
            "`locate.train.schedule.kind`: plateau needs validation data, and there is none. "
            "Give `data.counts.validation` images, or choose another schedule.",
        ),
        (
            [NO_VALIDATION, "locate.stop.loss_tolerance=0.1"],
            f"`locate.stop.loss_tolerance`: needs validation data, and there is none. {WAY_OUT}",
        ),
        (
            ["locate.lambdas={start: 0.1, stop: 0.01}"],
            "`locate.lambdas.start`: expected at most `locate.lambdas.stop`, 0.01, but got 0.1.",
        ),
        (
            ["locate.joint.lambda_start=1"],
            "`locate.joint.lambda_start`: expected at most `locate.joint.lambda_stop`, 0.03, but got 1.",
        ),
        (
            ["rewire.branch_points={depht: layer1, edges: layer1}"],
            "`rewire.branch_points.depht`: unknown task, did you mean `depth`? Known are depth, edges.",
        ),
        (
            ["rewire.branch_points={depth: {layer4: layer1}, edges: layer1}"],
            "`rewire.branch_points.depth`: expected one layer, because decoders that are built of a recipe read one.",
        ),
        (
            ["rewire.branch_points={depth: layer1}"],
            "`rewire.branch_points`: expected a layer for every task, but there is none for edges.",
        ),
        (["prune={}"], "`prune`: expected just one of channels, params, macs, latency_ms, but got none."),
        (
            ["prune={macs: 0.5, params: 0.5}"],
            "`prune`: expected just one of channels, params, macs, latency_ms, but got params and macs.",
        ),
        (
            ["rewire.distill={weights: {depht: 0}}"],
            "`rewire.distill.weights.depht`: unknown task, did you mean `depth`? Known are depth, edges.",
        ),
        (
            ["data.targets=original"],
            "`data.targets`: original needs a trained network of your own: "
            "give `model.factory` and `model.weights`.",
        ),
        (
            ["data.targets=original", "model={factory: 'a.b:c'}"],
            "`data.targets`: original needs a trained network: give `model.weights`, or `model.trained: true` where "
            "the factory loads them.",
        ),
        (
            ["data={kind: images, root: x, size: [96, 128]}"],
            "`data.targets`: expected original, because images alone have no labels.",
        ),
        (
            [*IMAGES, "tasks.depth.target=far"],
            "`tasks.depth.target`: not for `data.kind: images`, which has no labels.",
        ),
        (
            ["data={kind: images, size: [96, 128], targets: original}", OWN],
            "`data.root`: a dataset folder is needed for `data.kind: images`.",
        ),
        (
            [*FOLDER, "data.test_fraction=0.2"],
            "`data.test_fraction`: only for `data.kind: images`; others have a test split.",
        ),
        (
            [*IMAGES, "data.test_fraction=0.0"],
            "`data.test_fraction`: expected a number of more than 0, but got 0.0.",
        ),
        (
            [*IMAGES, "train.keep=best"],
            "`train.keep`: best needs validation data, and there is none. "
            "Set `data.validation_fraction` above 0, or keep last.",
        ),
        (
            ["prune={macs: 0.5, distill: {weights: {depht: 0}}}"],
            "`prune.distill.weights.depht`: unknown task, did you mean `depth`? Known are depth, edges.",
        ),
        (
            ["finetune={share: 0.2}"],
            "`finetune.target`: a task to go on for is needed, and `target` names none either.",
        ),
        (
            ["finetune={target: depht}"],
            "`finetune.target`: unknown task `depht`, did you mean `depth`? Known are depth, edges.",
        ),
        (
            ["finetune={target: depth, network: pruned}"],
            "`finetune.network`: pruned needs a block `prune`, and there is none. "
            "Give one, or leave `network` out.",
        ),
        (
            ["add={task: depht}"],
            "`add.task`: unknown task `depht`, did you mean `depth`? Known are depth, edges.",
        ),
        (
            ["add={threshold: 0.2}"],
            "`add.threshold`: expected at most `add.initial_score`, 0.15, because no layer would ever change "
            "otherwise, but got 0.2.",
        ),
        (
            ["finetune={target: depth, train: {batch_size: 1}}"],
            "`finetune.train.batch_size`: expected at least 2, "
            "because aspp normalises over the batch, but got 1.",
        ),
        (
            ["prune={macs: 0.5, train: {batch_size: 1}}"],
            "`prune.train.batch_size`: expected at least 2, "
            "because aspp normalises over the batch, but got 1.",
        ),
        (
            [NO_VALIDATION, "prune={macs: 0.5, train: {keep: best}}"],
            "`prune.train.keep`: best needs validation data, and there is none. "
            "Give `data.counts.validation` images, or keep last.",
        ),
    ],
)
def test_contradictions(problems_of, overrides, problem):
    assert problems_of(*overrides) == [problem]


@pytest.mark.parametrize(
    "overrides",
    [
        [*FOLDER, "train.early_stopping.patience=3", "train.keep=best", "train.schedule.kind=plateau"],
        ["train.early_stopping.patience=3", "train.keep=best", "train.schedule.kind=plateau"],
        ["locate.lambdas={start: 0.01, stop: 0.01, count: 1}"],
        ["rewire.branch_points={depth: layer1, edges: layer2}"],
        ["tasks.scene={kind: classification}"],
        ["tasks.edges.decoder.kind=linear"],
        ["tasks.scene={kind: classification, decoder: {kind: linear}}"],
        ["model.decoder.kind=linear", "train.batch_size=1"],
        ["device=cpu", "train.precision=bf16"],
        ["device=auto", "train.precision=fp16"],
        [*IMAGES],
        [*IMAGES, "data.validation_fraction=0.2", "data.test_fraction=0.3", "train.keep=best"],
        [*FOLDER, OWN, "data.targets=original", "tasks.depth.target=far"],
        ["data.targets=original", OWN],
        ["rewire.distill={weight: 2.0, weights: {depth: 0}}"],
        ["prune=null"],
        ["add={task: depth, threshold: 0.15}"],
        ["finetune=null"],
        ["finetune={target: depth, network: dense}"],
        ["target=depth", "finetune={}"],
        ["prune.channels=1"],
        ["prune={params: 0.3, rounds: 4, distill: {weights: {depth: 0, edges: 2}}}"],
    ],
)
def test_what_fits_together_is_accepted(problems_of, overrides):
    assert problems_of(*overrides) == []


def test_a_null_block_hides_nothing_else(problems_of):
    assert problems_of("data.kind=folder", "data.counts=null") == [
        "`data.counts`: expected a mapping, but got null.",
        "`data.root`: a dataset folder is needed for `data.kind: folder`.",
    ]


def test_contradictions_are_found_beside_wrong_values(problems_of):
    assert problems_of("data.size=[0, 1]", "data.root=x", "locate.lambdas={start: 2, stop: 1}", "name=3") == [
        "`data.root`: only for stored datasets; rooms are drawn, not read.",
        "`data.size.0`: expected a number of at least 1, but got 0.",
        "`locate.lambdas.start`: expected at most `locate.lambdas.stop`, 1, but got 2.",
        "`name`: expected text, but got 3.",
    ]


@pytest.mark.parametrize("budget", ["channels", "params", "macs"])
def test_a_budget_that_cannot_be_read_is_not_called_missing_too(problems_of, budget):
    (problem,) = problems_of(f"prune.{budget}=1.5")
    assert problem == f"`prune.{budget}`: expected a number of at most 1, but got 1.5."
