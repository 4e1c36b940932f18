"""A teacher's predictions as targets, kind by kind and in the loop."""

import math

import pytest
import torch

from lomt.tasks import KINDS, make_task
from lomt.training import (
    Distillation,
    OptimizerOptions,
    ScheduleOptions,
    Trainer,
    TrainingOptions,
)
from lomt.training.distillation import DISTILLATION_LOSSES

CHANNELS = {"segmentation": 3, "classification": 3, "multilabel": 4, "keypoints": 2, "regression": 2}
IMAGES = torch.zeros(2, 3, 4, 5)


def make(kind):
    """A task of the kind with two random predictions and a target of which the first image has no label."""
    channels = CHANNELS.get(kind, KINDS[kind].channels)
    task = make_task("own", kind, channels)
    generator = torch.Generator().manual_seed(3)
    shape = (2, channels, 4, 5) if task.is_dense else (2, channels)
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    if KINDS[kind].holds_labels:
        target = torch.ones(shape[:1] + shape[2:], dtype=torch.int64)
        target[0] = -1
    else:
        target = torch.full(shape, 0.7)
        target[0] = {"normals": 0.0, "depth": 0.0, "regression": math.nan}.get(kind, -1.0)
    return task, student, teacher, target


def loss(task, student, teacher, target, **options):
    distillation = Distillation(lambda images: {"own": teacher}, **options)
    tasks = {"own": task}
    total = distillation.sums(tasks, IMAGES, {"own": student}, {"own": target})
    return total, distillation.counts(tasks, {"own": target})


def test_every_kind_has_a_loss():
    assert set(DISTILLATION_LOSSES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_it_is_positive_and_vanishes_at_the_teacher(kind, temperature):
    task, student, teacher, target = make(kind)

    assert loss(task, student, teacher, target, temperature=temperature)[0] > 0.01
    own = teacher.float().requires_grad_()
    total, _ = loss(task, own, teacher, target, temperature=temperature)
    total.sum().backward()
    # Cosines are damped where a vector is short.
    value, slope = (1e-3, 1e-2) if kind == "normals" else (1e-5, 1e-5)
    assert total.detach().abs() < value
    assert own.grad.abs().max() < slope


@pytest.mark.parametrize("kind", KINDS)
def test_entries_without_a_label_do_not_count(kind):
    task, student, teacher, target = make(kind)
    student = student.float().requires_grad_()
    total, count = loss(task, student, teacher, target)
    total.sum().backward()

    changed = student.detach().clone()
    changed[0] += 5
    again, _ = loss(task, changed, teacher, target)
    assert torch.equal(again, total.detach())
    assert student.grad[0].abs().max() == 0
    assert student.grad[1].abs().max() > 0
    assert count.tolist() == [task.loss.layout.find_valid(target)[1].numel()]


def test_soft_labels_are_hintons():
    task, student, teacher, target = make("segmentation")
    total, _ = loss(task, student, teacher, target, temperature=2.0)
    q, p = (torch.softmax(x[1] / 2, 0) for x in (teacher, student))
    assert float(total) == pytest.approx(4 * float((q * (q / p).log()).sum()), rel=1e-5)


def test_soft_bits_are_soft_labels_of_two_classes():
    task, student, teacher, target = make("edges")
    total, _ = loss(task, student, teacher, target, temperature=2.0)
    pair = make_task("own", "segmentation", 2)
    classes = [torch.cat([torch.zeros_like(x), x], 1) for x in (student, teacher)]
    expected, _ = loss(pair, *classes, torch.where(target[:, 0] < 0, -1, 1), temperature=2.0)
    assert float(total) == pytest.approx(float(expected), rel=1e-5)


def test_extreme_logits_stay_finite():
    for kind in ("edges", "classification"):
        task, student, teacher, target = make(kind)
        student = (1e4 * student).float().requires_grad_()
        total, _ = loss(task, student, -1e4 * teacher, target)
        total.sum().backward()
        assert torch.isfinite(total).all() and torch.isfinite(student.grad).all()


def test_weights_scale_and_switch_off():
    case = make("depth")
    plain, _ = loss(*case)
    assert loss(*case, weights={"own": 2.5})[0] == pytest.approx(2.5 * float(plain))
    assert loss(*case, weights={"own": 0.0})[0] == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "Expected `temperature` to be above 0, but got 0.0."),
        ({"weights": {"depth": -1.0}}, "Expected the weight of task `depth` to be at least 0, but got -1.0."),
    ],
)
def test_senseless_settings_are_refused(options, message):
    with pytest.raises(ValueError) as caught:
        Distillation(lambda images: {}, **options)
    assert str(caught.value) == message


# --- in the loop


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def options(**changes):
    chosen = {
        "epochs": 1,
        "optimizer": OptimizerOptions("sgd", lr=0.1),
        "schedule": ScheduleOptions("constant"),
    }
    return TrainingOptions(**{**chosen, **changes})


def test_accumulation_takes_the_same_step_as_one_large_batch(make_model, make_loader, tasks):
    teacher = make_model(seed=5).eval()
    results = []
    for batch_size, steps in ((8, 1), (2, 4)):
        model = make_model()
        model.backbone[1] = torch.nn.Identity()
        distillation = Distillation(teacher, {"depth": 0.5}, temperature=2.0)
        chosen = options(accumulation_steps=steps)
        Trainer(model, tasks, make_loader(batch_size), chosen, distillation=distillation).fit()
        results.append(weights(model))

    for name in results[0]:
        assert torch.allclose(results[0][name], results[1][name], atol=1e-6), name


def test_weight_zero_is_no_distillation(make_model, make_loader, tasks):
    results = []
    for distillation in (None, Distillation(make_model(seed=5).eval(), dict.fromkeys(tasks, 0.0))):
        model = make_model()
        Trainer(model, tasks, make_loader(), options(), distillation=distillation).fit()
        results.append(weights(model))

    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_the_student_approaches_its_teacher_more_than_labels_alone_bring_it(make_model, make_loader, tasks):
    teacher = make_model(seed=5).eval()
    image = next(iter(make_loader(shuffle=False).epoch(0)))["image"]
    distances = []
    for weight in (0.0, 20.0):
        model = make_model()
        distillation = Distillation(teacher, dict.fromkeys(tasks, weight))
        chosen = options(epochs=6, optimizer=OptimizerOptions(lr=0.03))
        history = Trainer(model, tasks, make_loader(), chosen, distillation=distillation).fit()
        with torch.no_grad():
            difference = model.eval()(image)["depth"] - teacher(image)["depth"]
        distances.append(float(difference.abs().mean()))

    assert distances[1] < 0.5 * distances[0]
    assert history[0]["train_loss"]["depth"] > history[-1]["train_loss"]["depth"]


def test_a_trainer_goes_on_from_an_optimizers_state(make_model, make_loader, tasks):
    """Two epochs in one go are two of one epoch each, the second with the first's moments."""
    whole, parts = make_model(), make_model()
    chosen = {"optimizer": OptimizerOptions(lr=0.01)}
    Trainer(whole, tasks, Repeated(make_loader()), options(epochs=2, **chosen)).fit()
    first = Trainer(parts, tasks, Repeated(make_loader()), options(**chosen))
    first.fit()
    state = {name: value.clone() for name, value in first.optimizer_state.items()}
    Trainer(parts, tasks, Repeated(make_loader()), options(**chosen), optimizer_state=state).fit()

    assert all(torch.equal(value, parts.state_dict()[name]) for name, value in whole.state_dict().items())


class Repeated:
    """Every epoch is the first."""

    def __init__(self, loader):
        self._loader = loader
        self.wait_s = 0.0
        self.batches_per_epoch = loader.batches_per_epoch

    def epoch(self, epoch, start=0):
        return self._loader.epoch(0, start)
