"""Grouping and weighting of tasks: how right the estimates are and what they cost.

    python benchmarks/bench_grouping.py planted                 # groups planted in affinities of 10, 50, 200 tasks
    python benchmarks/bench_grouping.py cost                    # time and memory against tasks and parameters
    python benchmarks/bench_grouping.py overhead                # of each weighting and aggregation, per step
    python benchmarks/bench_grouping.py digits                  # a target's accuracy with weights mixed for it
    python benchmarks/bench_grouping.py affinity RECIPE         # estimated against true pairwise affinity
    python benchmarks/bench_grouping.py target RECIPE TARGET    # time to the single-task network's best validation loss

`--tiny` makes each of them but `affinity` short enough to try whether it runs. Results go to `--out`, a JSON file with
hardware and versions.
"""

import argparse
import json
import random
import resource
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from overlaid_digits import TASKS, OverlaidDigits, new_network
from stored_results import say
from torch import nn

from lomt.atomic_file import write_atomically
from lomt.data import BatchLoader, RoomsDataset
from lomt.deploy import describe_environment
from lomt.grouping import (
    Affinity,
    SparseProjection,
    affinity_of_subsets,
    cluster,
    collect_gradients,
    fit_subset,
    linear_losses,
    relative_distance,
    shared_parameters,
    subsets_for,
)
from lomt.models import BackboneSpec, DecoderSpec, ModelSpec
from lomt.pipeline import group, group_stage
from lomt.pipeline.context import open_context
from lomt.recipe import Recipe, load_recipe
from lomt.tasks import make_task
from lomt.training import OptimizerOptions, ScheduleOptions, Trainer, TrainingOptions, evaluate
from lomt.training.aggregation import AGGREGATIONS
from lomt.training.weighting import WEIGHTINGS

WAYS = ("fixed", "switch", "diminish")
_REFERENCE_OF_BAYES = "fixed weights on the tasks of bayesagg"


def planted(tiny: bool) -> list[dict[str, Any]]:
    """Return whether the planted groups come back exactly, and the seconds that took."""
    rows = []
    for count, groups in ((10, 3), (50, 5)) if tiny else ((10, 3), (50, 5), (200, 10)):
        for seed in range(1 if tiny else 5):
            generator = torch.Generator().manual_seed(seed)
            labels = torch.arange(count)[torch.randperm(count, generator=generator)] % groups
            matrix = 0.3 * (labels[:, None] == labels).double()
            matrix += 0.1 * torch.randn(count, count, generator=generator).double()
            began = time.perf_counter()
            found = cluster([str(index) for index in range(count)], matrix, groups=groups)
            seconds = time.perf_counter() - began
            own = {frozenset(map(int, members)) for members in found.groups}
            true = {frozenset((labels == label).nonzero()[:, 0].tolist()) for label in range(groups)}
            rows.append(
                {"tasks": count, "seed": seed, "exact": own == true, "seconds": seconds, **found.facts}
            )
    return rows


class Shared(nn.Module):
    """A perceptron with as many shared weights as asked for and one output a task."""

    def __init__(self, weights: int, tasks: int) -> None:
        super().__init__()
        width = max(4, round(weights**0.5))
        self.backbone = nn.Sequential(
            nn.Flatten(), nn.Linear(48, 32), nn.Linear(32, width), nn.Linear(width, width)
        )
        self.decoders = nn.ModuleDict({f"t{index}": nn.Linear(width, 1) for index in range(tasks)})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Predict one logit a task."""
        features = self.backbone(images)
        return {task: decoder(features) for task, decoder in self.decoders.items()}


def cost(tiny: bool) -> list[dict[str, Any]]:
    """Return seconds and the process's peak memory of gradients, fits and evaluation in the projected space."""
    rows = []
    sizes = (
        ((5, 10**4), (10, 10**4))
        if tiny
        else (
            *((tasks, 10**6) for tasks in (5, 20, 50, 200)),
            *((5, weights) for weights in (5 * 10**6, 25 * 10**6)),
        )
    )
    for count, weights in sizes:
        torch.manual_seed(0)
        model = Shared(weights, count)
        names = list(model.decoders)
        batch = {"image": torch.randn(32, 3, 4, 4)}
        batch |= {name: (torch.rand(32, 1) < 0.5).float() for name in names}
        tasks = {name: make_task(name, "multilabel", 1, classes=("yes",)) for name in names}
        parameters = shared_parameters(model)
        projection = SparseProjection(tuple(p.numel() for p in parameters.values()), 200)
        began = time.perf_counter()
        table = collect_gradients(model, tasks, [batch], projection, parameters)
        gradients_s = time.perf_counter() - began
        subsets = subsets_for(names, size=min(10, count), count=count)[:count]
        began = time.perf_counter()
        for subset in subsets:
            linear_losses(table, fit_subset(table, subset))
        rows.append(
            {
                "tasks": count,
                "weights": sum(projection.sizes),
                "gradients_s": gradients_s,
                "fits_s": time.perf_counter() - began,
                "fits": len(subsets),
                "peak_memory_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
                "dense_projection_bytes": 4 * 200 * sum(projection.sizes),
            }
        )
    return rows


def affinity(recipe: Recipe, some: tuple[str, ...]) -> dict[str, Any]:
    """Return how far estimated losses of pairs are from those of networks trained on the pairs, and the shares of cost.

    The estimate is made among all tasks of the recipe, the truth for pairs of some. A true pair starts from the same
    weights as the network of all tasks and is trained just as long. Cost is counted in passes of one image forward and
    backward through the shared network, three forward passes' worth each: of the estimate among all tasks, as a share
    of the trainings that the truth among all tasks would take, and of those that it took among some. Losses alone say
    little: beside the estimate stands the guess that pairing changes none of the network of all tasks.
    """
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        found = group(recipe, Path(folder) / "run")
        estimated_s = time.perf_counter() - began
        stored = json.loads((Path(folder) / "run" / "group" / "affinity.json").read_text())
        context = open_context(recipe, Path(folder) / "run")
        _, held_out = group_stage._batches(context, context.parts.dataset("validation") is not None)
        spent: list[float] = []

        def train(subset: tuple[str, ...]) -> dict[str, float]:
            """Train a pair, or a task alone, and return its held-out losses."""
            began = time.perf_counter()
            tasks = {name: context.parts.tasks[name] for name in subset}
            torch.manual_seed(recipe.seed)
            model = context.build(context.parts.model_spec(tasks))
            place = Path(folder) / "-".join(subset)
            context.trainer(model, tasks, recipe.train, place).fit()
            spent.append(time.perf_counter() - began)
            return evaluate(
                lambda images: model.eval()(context.parts.prepared(images)),
                held_out,
                tasks,
                targets=context.parts.targets,
            ).losses

        names = some or tuple(recipe.tasks)
        true = affinity_of_subsets(names, subsets_for(names), train, stored["before"], method="true")
        images = len(context.parts.dataset("train") or ())
        base = 3 * images * recipe.train.epochs
        settings, every = recipe.group, tuple(recipe.tasks)
        evaluations = settings.held_out * len(subsets_for(every)) if settings.evaluate == "lifted" else 0
        estimate = settings.samples * (1 + 2 * len(every)) + evaluations
        assert isinstance(found.evidence, Affinity)
        rows = torch.tensor([every.index(name) for name in names])
        estimated = replace(found.evidence, tasks=names, matrix=found.evidence.matrix[rows][:, rows])
        losses = {
            what: _losses_of_pairs(names, content["subsets"])
            for what, content in (("estimated", stored), ("true", true.facts))
        }
        before = torch.tensor([stored["before"][name] for name in names], dtype=torch.float64)
        unchanged = before[:, None].expand(len(names), -1)
        trainings = {"all": len(subsets_for(every)) * base, "some": len(subsets_for(names)) * base}
        one_training_s = sum(spent) / len(spent)
        return {
            "tasks": every,
            "true_tasks": names,
            "distance_of_losses": relative_distance(losses["estimated"], losses["true"]),
            "distance_of_unchanged_losses": relative_distance(unchanged, losses["true"]),
            "distance_of_gains": relative_distance(estimated.matrix, true.matrix),
            "rank_correlation_of_gains": _rank_correlation(estimated, true),
            "macs_share": {what: (base + estimate) / count for what, count in trainings.items()},
            "macs_share_without_base": {what: estimate / count for what, count in trainings.items()},
            "wall_share": {
                "all": estimated_s / (one_training_s * len(subsets_for(every))),
                "some": estimated_s / sum(spent),
            },
            "estimated_s": estimated_s,
            "true_s": spent,
            "estimated": estimated.matrix.tolist(),
            "true": true.matrix.tolist(),
            "losses": {what: matrix.tolist() for what, matrix in losses.items()},
        }


def _losses_of_pairs(names: tuple[str, ...], records: list[dict[str, Any]]) -> torch.Tensor:
    matrix = torch.zeros(len(names), len(names), dtype=torch.float64)
    for record in records:
        if len(record["tasks"]) == 2 and set(record["tasks"]) <= set(names):
            first, second = record["tasks"]
            matrix[names.index(first), names.index(second)] = record["losses"][first]
            matrix[names.index(second), names.index(first)] = record["losses"][second]
    return matrix


def _rank_correlation(one: Affinity, other: Affinity) -> float:
    apart = ~torch.eye(len(one.tasks), dtype=torch.bool)
    ranks = [a.matrix[apart].argsort().argsort().double() for a in (one, other)]
    return float(torch.corrcoef(torch.stack(ranks))[0, 1])


def overhead(tiny: bool) -> dict[str, float]:
    """Return each method's median seconds a step as a ratio to fixed weights, interleaved in random order.

    `bayesagg`, which has no posterior for a cosine, is compared with fixed weights on the tasks that it takes.
    """
    names = ["segmentation", "depth", "normals"]
    rooms = RoomsDataset(8 if tiny else 16, size=(32, 48), targets=names)
    tasks = {n: make_task(n, s.kind, s.out_channels, classes=s.classes) for n, s in rooms.targets.items()}
    plain = {"segmentation": tasks["segmentation"], "depth": make_task("depth", "depth", 1, loss="mse")}
    arms: list[tuple[str, str, str | None]] = [
        *((name, name, None) for name in WEIGHTINGS),
        *((name, "fixed", name) for name in AGGREGATIONS),
        (_REFERENCE_OF_BAYES, "fixed", None),
    ]
    seconds: dict[str, list[float]] = {}
    loader = BatchLoader(rooms, 4, shuffle=True)
    for round_number in range(2 if tiny else 3):
        random.Random(round_number).shuffle(arms)
        for arm, weighting, aggregation in arms:
            own = plain if arm in ("bayesagg", _REFERENCE_OF_BAYES) else tasks
            spec = ModelSpec(
                BackboneSpec("test_resnet" if tiny else "resnet18"),
                {name: DecoderSpec("linear") for name in own},
                {name: task.out_channels for name, task in own.items()},
                dict.fromkeys(own, True),
            )
            options = TrainingOptions(
                epochs=len(names),
                weighting=weighting,
                aggregation=aggregation,
                target="depth",
                optimizer=OptimizerOptions(lr=1e-4),
            )
            trainer = Trainer(spec.build(), own, loader, options)
            began = time.perf_counter()
            trainer.fit()
            seconds.setdefault(arm, []).append(time.perf_counter() - began)
            say(f"round {round_number}: {arm} {seconds[arm][-1]:.2f} s")
    medians = {name: statistics.median(own) for name, own in seconds.items()}
    bayes = medians.pop(_REFERENCE_OF_BAYES)
    return {name: own / (bayes if name == "bayesagg" else medians["fixed"]) for name, own in medians.items()}


def digits(tiny: bool) -> list[dict[str, Any]]:
    """Return the accuracy on one of two overlapping digits: alone, with fixed weights, and with weights mixed for it.

    An epoch of `alphavil` trains one task, one of the others all: with twice the epochs both see every task as often.
    """
    epochs = 2 if tiny else 20
    lengths = {
        ("alone", "fixed", epochs): TASKS[:1],
        ("fixed", "fixed", epochs): TASKS,
        ("alphavil", "alphavil", 2 * epochs): TASKS,
        ("alphavil, as many epochs", "alphavil", epochs): TASKS,
    }
    rows = []
    for seed in range(1 if tiny else 3):
        data = {split: OverlaidDigits(split, seed) for split in ("train", "validation", "test")}
        for (arm, weighting, count), names in lengths.items():
            tasks = {
                name: make_task(name, spec.kind, spec.out_channels, classes=spec.classes)
                for name, spec in data["train"].targets.items()
                if name in names
            }
            options = TrainingOptions(
                epochs=count,
                weighting=weighting,
                target=TASKS[0],
                optimizer=OptimizerOptions(lr=1e-3),
                schedule=ScheduleOptions(kind="constant"),
                seed=seed,
            )
            loaders = {
                split: BatchLoader(own, 64, shuffle=split == "train", seed=seed, drop_last=split == "train")
                for split, own in data.items()
            }
            model = new_network(names, seed)
            trainer = Trainer(model, tasks, loaders["train"], options, validation=loaders["validation"])
            began = time.perf_counter()
            trainer.fit()
            seconds = time.perf_counter() - began
            found = evaluate(trainer.predict, loaders["test"].epoch(0), tasks)
            rows.append(
                {"seed": seed, "arm": arm, "epochs": count, "seconds": seconds, **found.metrics[TASKS[0]]}
            )
    return rows


def target(recipe: Recipe, task: str, tiny: bool) -> list[dict[str, Any]]:
    """Return the seconds until each way reaches the single-task network's best validation loss, seeds interleaved.

    Recipes need validation data. Seconds are those of the epochs' training, as `history.jsonl` has them.
    """
    rows = []
    for seed in range(1 if tiny else 3):
        arms = ["single", *WAYS]
        random.Random(seed).shuffle(arms)
        found = {arm: _history(recipe, task, arm, seed) for arm in arms}
        bar = min(record["validation_loss"][task] for record in found["single"])
        for arm, records in found.items():
            total, reached = 0.0, None
            for record in records:
                total += record["seconds"]
                if reached is None and record["validation_loss"][task] <= bar:
                    reached = total
            best = min(record["validation_loss"][task] for record in records)
            rows.append({"seed": seed, "arm": arm, "seconds_to_bar": reached, "seconds": total, "best": best})
    return rows


def _history(recipe: Recipe, task: str, arm: str, seed: int) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        weighting = "fixed" if arm == "single" else arm
        train = recipe.train.model_copy(update={"weighting": weighting})
        own = recipe.model_copy(update={"target": task, "seed": seed, "train": train})
        context = open_context(own, Path(folder) / "run")
        tasks = {task: context.parts.tasks[task]} if arm == "single" else context.parts.tasks
        torch.manual_seed(seed)
        model = context.build(context.parts.model_spec(tasks))
        return list(context.trainer(model, tasks, train, Path(folder) / "train").fit())


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("planted", "cost", "overhead", "digits", "affinity", "target"))
    parser.add_argument("recipe", nargs="?")
    parser.add_argument("task", nargs="?")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument(
        "--some", nargs="*", default=[], metavar="TASK", help="among which pairs are really trained"
    )
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    measures = {
        "planted": lambda: planted(given.tiny),
        "cost": lambda: cost(given.tiny),
        "overhead": lambda: overhead(given.tiny),
        "digits": lambda: digits(given.tiny),
        "affinity": lambda: affinity(load_recipe(given.recipe, given.set), tuple(given.some)),
        "target": lambda: target(load_recipe(given.recipe, given.set), given.task, given.tiny),
    }
    content = {"what": given.what, "environment": describe_environment(), "result": measures[given.what]()}
    text = json.dumps(content, indent=2, default=str)
    print(text)
    if given.out is not None:
        write_atomically(given.out, lambda path: path.write_text(text + "\n", encoding="utf-8"))


if __name__ == "__main__":
    main()
