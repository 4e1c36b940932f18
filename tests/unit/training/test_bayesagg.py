import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lomt.errors import TrainingError, UnknownNameError
from lomt.tasks import make_task
from lomt.training import Distillation, OptimizerOptions, Trainer, TrainingOptions
from lomt.training.aggregation import make_aggregator
from lomt.training.bayesagg import BayesAgg, StepLabels, precision_weighted
from lomt.training.last_layer_posterior import Moments, likelihood_of, updated
from tests.reference import bayesagg as reference
from tests.unit.killed_after import KilledAfter

SIZE = (4, 6)


class Net(nn.Module):
    """Maps at half the images' size; by task, the layer that its decoder reads."""

    def __init__(self, tasks, reads=None):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = nn.ModuleList([nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(4, 4, 1)])
        self.tasks, self.reads = tasks, reads or dict.fromkeys(tasks, 1)
        pooled = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.decoders = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Dropout(0.0), nn.Conv2d(4, task.out_channels, 1))
                if task.is_dense
                else nn.Sequential(*copy.deepcopy(pooled), nn.Linear(4, task.out_channels))
                for name, task in tasks.items()
            }
        )

    def forward(self, images):
        layers = [torch.tanh(self.backbone[0](images))]
        layers.append(torch.tanh(self.backbone[1](layers[0])))
        outputs = {}
        for name, decoder in self.decoders.items():
            output = decoder(layers[self.reads[name]])
            if self.tasks[name].is_dense:
                output = F.interpolate(output, size=SIZE, mode="bilinear", align_corners=False)
            outputs[name] = output
        return outputs


def tasks_of(*names):
    known = {
        "depth": make_task("depth", "depth", 1, loss="mse"),
        "segmentation": make_task("segmentation", "segmentation", 3, loss_options={"label_smoothing": 0.1}),
        "points": make_task("points", "keypoints", 2, loss="bce"),
        "pose": make_task("pose", "regression", 2, loss="mse"),
        "label": make_task("label", "classification", 3),
    }
    return {name: known[name] for name in names}


def draw(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def targets_of(tasks):
    depth = draw(2, 1, *SIZE, seed=1)  # not labelled where it is not positive
    labels = (draw(2, *SIZE, seed=2) * 2).round().long().clamp(-1, 2)
    points = draw(2, 2, *SIZE, seed=3).sigmoid()
    points[0, 0] = -1
    pose = draw(2, 2, seed=4)
    pose[0, 1] = torch.nan
    all_targets = {
        "depth": depth,
        "segmentation": labels,
        "points": points,
        "pose": pose,
        "label": torch.tensor([1, -1]),
    }
    return {name: all_targets[name] for name in tasks}


def step(model, tasks, coefficients, rule, number=0):
    """One forward and backward pass; the model then has its gradients."""
    images, targets = draw(2, 3, 2 * SIZE[0] // 2, SIZE[1], seed=7), targets_of(tasks)
    counts = {name: task.loss.count(targets[name]).double().clamp(min=1) for name, task in tasks.items()}
    with rule.watching(model):
        outputs = model(images)
    losses = {name: task.loss(outputs[name], targets[name]) / counts[name] for name, task in tasks.items()}
    rule.backward(losses, coefficients, StepLabels(targets, counts, number))
    return images, targets, counts


def made(model, tasks, **options):
    rule = BayesAgg(list(tasks), **options)
    rule.attach(model, tasks)
    return rule


def coefficients_of(tasks):
    return {name: torch.tensor(1.0 + index).double() for index, name in enumerate(tasks)}


def looped(rule, before, tasks, examples, wanted, labels, coefficients, counts, *, samples, generator):
    """The aggregated gradient of every example, one by one; ``wanted`` are single-example targets by task."""
    moments = {}
    for name, task in tasks.items():
        posterior = rule.posterior(name)
        assert not posterior.mean.equal(before[name].mean)
        if name in ("depth", "pose"):
            covariances = torch.linalg.inv(posterior.precision)
            own = []
            for example, y, valid in zip(examples, wanted[name], labels[name], strict=True):
                x = torch.cat([example, torch.ones(1, dtype=torch.float64)])
                parts = [
                    reference.squared_moments(m, s, x, y.flatten()[k])
                    for k, (m, s) in enumerate(zip(posterior.mean, covariances, strict=True))
                    if valid.flatten()[k]
                ]
                zero = torch.zeros_like(example)
                own.append((sum((p[0] for p in parts), zero), sum((p[1] for p in parts), zero)))
            moments[name] = own
        else:
            layers = reference.draws(posterior, samples, generator)
            moments[name] = [
                reference.sampled_moments(task, layers, example, y)
                for example, y in zip(examples, wanted[name], strict=True)
            ]
    factors = [coefficients[name] / counts[name] for name in tasks]
    return torch.stack(
        [
            reference.aggregated(
                [moments[name][i][0] for name in tasks],
                [moments[name][i][1] for name in tasks],
                [bool(labels[name][i].any()) for name in tasks],
                factors,
                rule._power,
                rule._least,
            )
            for i in range(len(examples))
        ]
    )


def posteriors(rule, tasks):
    return {
        name: type(rule.posterior(name))(*(v.clone() for v in vars(rule.posterior(name)).values()))
        for name in tasks
    }


@pytest.mark.parametrize("power", [1.0, 0.5])
@pytest.mark.parametrize("names", [("depth", "segmentation"), ("segmentation", "points", "depth")])
def test_maps_are_aggregated_as_a_loop_over_pixels_does(names, power):
    tasks, samples = tasks_of(*names), 6
    model, coefficients = Net(tasks).double(), coefficients_of(tasks)
    rule = made(model, tasks, pixels=None, samples=samples, power=power, seed=3)
    before = posteriors(rule, tasks)
    images, targets, counts = step(model, tasks, coefficients, rule, number=11)

    features = torch.tanh(model.backbone[1](torch.tanh(model.backbone[0](images))))
    examples = reference.enlarged(features, SIZE)
    singles, labels = {}, {}
    for name, task in tasks.items():
        target = targets[name] if targets[name].ndim == 4 else targets[name][:, None]
        rows = target.permute(0, 2, 3, 1).flatten(0, 2)
        singles[name] = [
            row.view(1, 1, 1) if name == "segmentation" else row.view(1, -1, 1, 1) for row in rows
        ]
        labels[name] = task.loss.layout.find_valid(rows)
    generator = torch.Generator().manual_seed(3 * 1_000_003 + 11)
    expected = looped(
        rule,
        before,
        tasks,
        examples.detach(),
        singles,
        labels,
        coefficients,
        counts,
        samples=samples,
        generator=generator,
    )
    shared = list(model.backbone.parameters())
    for parameter, gradient in zip(shared, torch.autograd.grad(examples, shared, expected), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_answers_for_images_are_aggregated_as_a_loop_over_images_does():
    tasks, samples = tasks_of("pose", "label"), 6
    model, coefficients = Net(tasks).double(), coefficients_of(tasks)
    rule = made(model, tasks, samples=samples)
    before = posteriors(rule, tasks)
    images, targets, counts = step(model, tasks, coefficients, rule)
    examples = torch.tanh(model.backbone[1](torch.tanh(model.backbone[0](images)))).mean((2, 3))
    singles = {"pose": list(targets["pose"][:, None]), "label": list(targets["label"][:, None])}
    labels = {"pose": ~targets["pose"].isnan(), "label": targets["label"][:, None] >= 0}
    expected = looped(
        rule,
        before,
        tasks,
        examples.detach(),
        singles,
        labels,
        coefficients,
        counts,
        samples=samples,
        generator=torch.Generator().manual_seed(0),
    )
    shared = list(model.backbone.parameters())
    for parameter, gradient in zip(shared, torch.autograd.grad(examples, shared, expected), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def plain(model, tasks, coefficients):
    """Gradients of the weighted sum."""
    images, targets = draw(2, 3, SIZE[0], SIZE[1], seed=7), targets_of(tasks)
    outputs = model(images)
    losses = [
        coefficients[n] * t.loss(outputs[n], targets[n]) / t.loss.count(targets[n]) for n, t in tasks.items()
    ]
    return dict(
        zip(
            dict(model.named_parameters()),
            torch.autograd.grad(sum(losses), list(model.parameters())),
            strict=True,
        )
    )


def test_last_layers_get_their_ordinary_gradients():
    tasks = tasks_of("depth", "segmentation", "pose", "label")
    model, coefficients = Net(tasks).double(), coefficients_of(tasks)
    step(model, tasks, coefficients, made(model, tasks))
    expected = plain(model, tasks, coefficients)
    for name, parameter in model.named_parameters():
        if "decoders" in name:
            torch.testing.assert_close(parameter.grad, expected[name])
        else:
            assert not torch.allclose(parameter.grad, expected[name])


@pytest.mark.parametrize(
    ("names", "reads"),
    [(("depth", "segmentation"), {"depth": 0, "segmentation": 1}), (("depth", "pose"), None)],
)
def test_tasks_alone_with_what_they_read_have_ordinary_gradients(names, reads):
    """Another depth, or a map beside an answer for the whole image: there is nothing to weigh."""
    tasks = tasks_of(*names)
    model, coefficients = Net(tasks, reads).double(), coefficients_of(tasks)
    step(model, tasks, coefficients, made(model, tasks))
    expected = plain(model, tasks, coefficients)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name])


def test_branch_points_add_up():
    """Two tasks that aggregate and one at another depth: each group's gradient as if it were alone."""
    tasks = tasks_of("depth", "segmentation", "points")
    model, coefficients = (
        Net(tasks, {"depth": 1, "segmentation": 1, "points": 0}).double(),
        coefficients_of(tasks),
    )
    step(model, tasks, coefficients, made(model, tasks))
    total = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    sums = dict.fromkeys(total, 0.0)
    for group in (("depth", "segmentation"), ("points",)):
        own = {name: tasks[name] for name in group}
        part = copy.deepcopy(model)
        part.zero_grad()
        for name in set(tasks) - set(group):
            del part.decoders[name]
        step(part, own, coefficients, made(part, own))
        for name, parameter in part.named_parameters():
            sums[name] = sums[name] + (0.0 if parameter.grad is None else parameter.grad)
    for name, gradient in total.items():
        torch.testing.assert_close(gradient, sums[name])


def test_precisions_weigh_entry_by_entry_and_missing_labels_do_not_count():
    mean = torch.tensor([[[1.0, 1.0], [1.0, 1.0]], [[3.0, 3.0], [3.0, 3.0]]])
    variance = torch.tensor([[[1.0, 4.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1e-12]]])
    labelled = torch.tensor([[True, True], [True, False]])
    found = precision_weighted(
        [Moments(m, v) for m, v in zip(mean, variance, strict=True)], labelled, torch.tensor([1.0, 10.0])
    )
    # Equal variances give the sum; a variance four times as large a weight of 1 against 4.
    torch.testing.assert_close(found, torch.tensor([[31.0, 2 * (0.2 + 0.8 * 30)], [1.0, 1.0]]))
    nothing = precision_weighted([Moments(mean[0], variance[0])], torch.zeros(1, 2).bool(), torch.ones(1))
    assert not nothing.any()


class FeaturesAsMoments(BayesAgg):
    """Takes an example's features for its gradient, each task as sure as the others."""

    def _moments(self, task, inputs, target, places, generator):
        values = inputs[:, :-1]
        return Moments(values, torch.ones_like(values)), torch.ones(len(values), dtype=torch.bool)


def test_a_subset_of_pixels_has_the_size_of_all():
    """Of many draws the mean is the gradient of all pixels: every pixel counts alike often."""
    tasks = tasks_of("depth", "points")
    model, coefficients = Net(tasks).double(), coefficients_of(tasks)

    def gradient(number, pixels):
        model.zero_grad()
        rule = FeaturesAsMoments(list(tasks), pixels=pixels)
        rule.attach(model, tasks)
        step(model, tasks, coefficients, rule, number)
        return model.backbone[1].weight.grad.clone()

    whole = gradient(0, None)
    drawn = torch.stack([gradient(number, 12) for number in range(100)])
    assert (drawn.std(0) > 0).all()
    assert ((drawn.mean(0) - whole).abs() <= 5 * drawn.std(0) / len(drawn) ** 0.5).all()


def test_what_is_known_goes_on_from_batch_to_batch():
    tasks = tasks_of("depth", "points")
    model, coefficients = Net(tasks).double(), coefficients_of(tasks)
    rule = made(model, tasks, memory=0.5, pixels=None, prior_precision=2.0)
    images, targets, _ = step(model, tasks, coefficients, rule)
    step(model, tasks, coefficients, rule, 1)
    features = torch.tanh(model.backbone[1](torch.tanh(model.backbone[0](images)))).detach()
    examples = reference.enlarged(features, SIZE)
    inputs = torch.cat([examples, torch.ones_like(examples[:, :1])], 1)
    wanted = targets["depth"].flatten()[:, None]
    known = posteriors(made(model, tasks, prior_precision=2.0), tasks)["depth"]
    for _ in range(2):
        known = updated(
            known, inputs, wanted, wanted > 0, likelihood_of("mse"), prior_precision=2.0, memory=0.5
        )
    torch.testing.assert_close(rule.posterior("depth").mean, known.mean)
    torch.testing.assert_close(rule.posterior("depth").precision, known.precision)


# --- what it refuses


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            make_task("depth", "depth", 1),
            "task `depth` to have the loss mse, because `aggregation` is bayesagg, but got l1",
        ),
        (make_task("depth", "depth", 1, loss="huber"), "but got huber. Set `tasks.depth.loss`"),
        (make_task("points", "keypoints", 1), "task `points` to have the loss bce.*but got mse"),
        (
            make_task("rims", "edges", 1),
            "task `rims` to be of kind segmentation, depth.*but it is of kind edges",
        ),
        (make_task("up", "normals", 3), "it is of kind normals. Choose another aggregation"),
    ],
)
def test_tasks_without_a_posterior_are_named(task, text):
    tasks = {task.name: task}
    with pytest.raises(TrainingError, match=text):
        made(Net(tasks), tasks)


@pytest.mark.parametrize(
    ("decoder", "got"),
    [
        (nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 1, 1)), "got Conv2d, ReLU"),
        (nn.Sequential(nn.Dropout(0.5), nn.Conv2d(4, 1, 1)), "without dropout.*got Dropout, Conv2d"),
        (nn.Conv2d(4, 1, 3, padding=1), "got Conv2d"),
        (nn.Linear(4, 1), "Set `tasks.depth.decoder.kind` to linear"),
        (None, "got none of its own"),
    ],
)
def test_decoders_that_are_more_than_one_linear_layer_are_refused(decoder, got):
    tasks = tasks_of("depth")
    model = Net(tasks)
    if decoder is None:
        del model.decoders["depth"]
    else:
        model.decoders["depth"] = decoder
    with pytest.raises(TrainingError, match=f"decoder of task `depth` to be one 1x1 convolution.*{got}"):
        made(model, tasks)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"prior_precision": 0.0}, "Expected `prior_precision` to be above 0, but got 0.0"),
        ({"power": -1.0}, "Expected `power` to be above 0"),
        ({"least_variance": 0.0}, "Expected `least_variance` to be above 0"),
        ({"memory": 1.0}, "Expected `memory` to be at least 0 and below 1, but got 1.0"),
        ({"samples": 1}, "Expected `samples` to be at least 2, but got 1"),
        ({"pixels": 0}, "Expected `pixels` to be at least 1, or null for all, but got 0"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        make_aggregator("bayesagg", ["a", "b"], options)


def test_unknown_options_are_named():
    with pytest.raises(
        UnknownNameError, match="option of aggregation bayesagg `sample`, did you mean `samples`"
    ):
        make_aggregator("bayesagg", ["a", "b"], {"sample": 3})


# --- in training


@pytest.fixture
def squared(tasks):
    return {**tasks, "depth": make_task("depth", "depth", 1, loss="mse")}


def trainer(model, tasks, loader, **choices):
    settings = {
        "weighting": "fixed",
        **{k: choices.pop(k) for k in ("weighting", "accumulation_steps") if k in choices},
    }
    options = TrainingOptions(
        epochs=8,
        aggregation="bayesagg",
        aggregation_options={"samples": 8, "pixels": 40},
        optimizer=OptimizerOptions(lr=0.03),
        checkpoint_s=0.0,
        **settings,
    )
    return Trainer(model, tasks, loader, options, **choices)


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_losses_fall(make_model, make_loader, squared, accumulation_steps):
    records = trainer(make_model(), squared, make_loader(), accumulation_steps=accumulation_steps).fit()
    for task in squared:
        assert records[-1]["train_loss"][task] < 0.8 * records[0]["train_loss"][task]


def test_a_killed_training_goes_on_to_the_same_weights(make_model, make_loader, squared, tmp_path):
    def fit(**choices):
        model = make_model()
        trainer(model, squared, make_loader(), **choices).fit()
        return model.state_dict()

    whole = fit()
    with pytest.raises(SystemExit):
        fit(checkpoint=tmp_path / "a.checkpoint", progress=KilledAfter(7))
    resumed = fit(checkpoint=tmp_path / "a.checkpoint")
    assert all(value.equal(resumed[name]) for name, value in whole.items())


def test_what_needs_gradients_of_single_tasks_is_refused(make_model, make_loader, squared):
    with pytest.raises(
        TrainingError, match="no lengths of gradients with aggregation `bayesagg`.*got gradnorm"
    ):
        trainer(make_model(), squared, make_loader(), weighting="gradnorm")
    teacher = Distillation(make_model(), dict.fromkeys(squared, 1.0), 2.0)
    with pytest.raises(TrainingError, match="no teacher with aggregation `bayesagg`"):
        trainer(make_model(), squared, make_loader(), distillation=teacher)
