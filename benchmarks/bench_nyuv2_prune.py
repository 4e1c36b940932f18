"""The NYU-v2 recipe's dense network cut to half and a quarter of its MACs, beside Torch-Pruning's cuts.

    LOMT_DATA=... LOMT_WEIGHTS=... python benchmarks/bench_nyuv2_prune.py --run runs/nyuv2_lite0_lomt

`--run` is a run directory with a finished stage `dense`. Four arms for each target, each starting from that network:

- `lomt`: `lomt.prune` with importance `task_union` on the recipe's own losses, one cut;
- `torch_pruning`: `BasePruner`, `GroupMagnitudeImportance(p=2)`, global, `round_to=8`, the heads' last layers ignored,
  one cut. Its ratio of channels is found by bisection, so that the MACs are the target's within 1 %,
  or as near as they get: a miss is in the result;
- `lomt_gradual` and `torch_pruning_gradual`: the same in three rounds of cutting and training, each of which keeps
  the same share of the MACs. Torch-Pruning's are its `iterative_steps=3`, but with a bisected ratio for each: its own
  linear row of ratios cuts little first and most at last (89 %, 79 %, 50 % of the MACs here).

After every cut, batch norm statistics are renewed from the same training batches, then the network is fine-tuned by
`lomt.training.Trainer` with the recipe's batch size, augmentation, losses and one-cycle schedule and with the same
steps in total in every arm, on the same batches in the same order. The rounds of a gradual arm share these steps out;
each has a schedule and an optimizer of its own, in both tools. MACs of both tools' networks are counted by tracing
them with `lomt.structure`. `delta_m` is relative to the dense network, which gets no further training, on the test
split, evaluated in the same run.

Each arm's result is written as it finishes; a second call goes on with the arms that are missing. A call with other
settings refuses to mix.
"""

import argparse
import copy
import os
import random
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch_pruning
from stored_results import begin, say, store
from torch import Tensor, nn

import lomt
from lomt.models import load_model
from lomt.pipeline.parts import Parts, training_options
from lomt.recipe import load_recipe
from lomt.structure import trace_structure
from lomt.tasks import delta_m
from lomt.training import Regularizer, Trainer, evaluate, recalibrate_batch_norm

ARMS = ("lomt", "torch_pruning", "lomt_gradual", "torch_pruning_gradual")
TARGETS = (0.5, 0.25)
ROUNDS = 3
TOLERANCE = 0.01
LOSS_BATCHES, NORM_BATCHES = 4, 16
_RESULT = Path(__file__).parent / "results" / "nyuv2_prune.json"
_TRIALS = 16

Results = dict[str, dict[str, float]]


def main() -> None:
    """Run the arms that are missing, store each and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    bench = Bench(options.run, options.epochs, options.lr, options.steps, options.test_batches)
    result = begin(options.output, {**bench.settings(), "threads": options.threads}, options.note)
    if "dense" not in result:
        result["dense"] = bench.dense_result()
        store(options.output, result)
    # One cut first: it is the half of the answer that a run cut short should have.
    for arm in options.arms:
        for target in options.targets:
            key = f"{arm}@{target:g}"
            if key in result["arms"]:
                continue
            say(f"{key}: begins")
            result["arms"][key] = bench.run_arm(arm, target, result["dense"]["metrics"])
            result["load_average_after"] = os.getloadavg()
            store(options.output, result)
            say(f"{key}: done")
    print(table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", type=Path, required=True, help="run directory with a finished stage `dense`")
    parser.add_argument("--output", type=Path, default=_RESULT)
    parser.add_argument("--epochs", type=float, default=3.0, help="of fine-tuning in total, in every arm")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate of fine-tuning")
    parser.add_argument("--steps", type=int, help="in place of --epochs")
    parser.add_argument("--test-batches", type=int, help="judge on the first few only, to try this out")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument("--targets", nargs="+", type=float, default=TARGETS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="kept in the result, such as why so few epochs")
    return parser.parse_args()


@dataclass
class Steps:
    """Some consecutive steps of an endless row of epochs, as the one epoch of a training of their own.

    Args:
        loader: Whose epochs follow each other.
        first: Number of the first step.
        count: How many.
    """

    loader: Any
    first: int
    count: int
    wait_s: float = 0.0

    @property
    def batches_per_epoch(self) -> int:
        """The number of steps."""
        return self.count

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Mapping[str, Tensor]]:
        """Yield the batches from the ``start``-th on."""
        step, end, size = self.first + start, self.first + self.count, self.loader.batches_per_epoch
        while step < end:
            number, begin = divmod(step, size)
            yield from islice(self.loader.epoch(number, begin), end - step)
            step = (number + 1) * size


@dataclass
class Lines:
    """A progress that prints a line now and then."""

    every: int = 25
    total: int = 0
    done: int = 0
    began: float = 0.0

    def start(self, description: str, total: int, done: int = 0) -> None:
        """Begin to count."""
        self.total, self.done, self.began = total, done, time.monotonic()

    def advance(self, count: int = 1, **figures: float) -> None:
        """Print every so many steps."""
        self.done += count
        if self.done % self.every == 0:
            seconds = (time.monotonic() - self.began) / self.done
            say(
                f"  step {self.done} of {self.total}, {seconds:.2f} s each, loss {figures.get('loss', 0):.3f}"
            )

    def finish(self, note: str = "") -> None:
        """Say nothing."""

    def message(self, text: str) -> None:
        """Say it."""
        say(text)


@dataclass
class Bench:
    """What all arms share: network, data, fine-tuning and judgement.

    Args:
        run: The run directory.
        epochs: Of fine-tuning, in total.
        lr: Peak learning rate.
        steps: In place of the epochs.
        test_batches: How many to judge on; None for all.
    """

    run: Path
    epochs: float
    lr: float
    steps: int | None
    test_batches: int | None
    parts: Parts = field(init=False)
    total_steps: int = field(init=False)

    def __post_init__(self) -> None:
        self.recipe = load_recipe(str(self.run / "recipe.yaml"))
        self.parts = Parts(self.recipe)
        self.train = self.parts.loader("train", self.recipe.train)
        self.total_steps = self.steps or round(self.epochs * self.train.batches_per_epoch)
        self.dense = load_model(self.run / "dense").eval()
        height, width = self.recipe.data.size
        self.example = torch.zeros(1, 3, height, width)
        self.dense_macs = self.macs(self.dense)

    def settings(self) -> dict[str, Any]:
        """Return what the results depend on."""
        return {
            "recipe": self.recipe.name,
            "dense_training": self.recipe.train.model_dump(mode="json", include={"epochs", "optimizer"}),
            "input_size": list(self.recipe.data.size),
            "batch_size": self.recipe.train.batch_size,
            "fine_tuning_steps": self.total_steps,
            "fine_tuning_epochs": round(self.total_steps / self.train.batches_per_epoch, 3),
            "fine_tuning": {
                "lr": self.lr,
                "optimizer": self.recipe.train.optimizer.kind,
                "schedule": self.recipe.train.schedule.kind,
            },
            "rounds_of_gradual_arms": ROUNDS,
            "loss_batches": LOSS_BATCHES,
            "batch_norm_batches": NORM_BATCHES,
            "macs_tolerance_of_torch_pruning": TOLERANCE,
            "delta_m": self.recipe.bench.delta_m,
            "seed": self.recipe.seed,
            "test_batches": self.test_batches,
        }

    def macs(self, model: nn.Module) -> int:
        """Count multiply-accumulates for one image, for both tools by the same trace."""
        return trace_structure(model, self.example).macs({})

    def dense_result(self) -> dict[str, Any]:
        """Judge the dense network."""
        say("dense: judged")
        params = sum(own.numel() for own in self.dense.parameters())
        return {"macs": self.dense_macs, "params": params, "metrics": self.judge(copy.deepcopy(self.dense))}

    def run_arm(self, arm: str, target: float, baseline: Results) -> dict[str, Any]:
        """Cut and fine-tune; what breaks is a result as well."""
        began = time.monotonic()
        random.seed(self.recipe.seed)
        torch.manual_seed(self.recipe.seed)
        rounds = ROUNDS if arm.endswith("_gradual") else 1
        cutter = (LomtCuts if arm.startswith("lomt") else TorchPruningCuts)(self, target, rounds)
        record: dict[str, Any] = {"arm": arm, "target": target, "rounds": []}
        model: nn.Module = copy.deepcopy(self.dense)
        try:
            for number in range(1, rounds + 1):
                model = self._round(cutter.cut, model, number, rounds, record["rounds"])
            record |= {"metrics": self.judge(model)}
        except Exception as error:
            return {**record, "broken": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        last = record["rounds"][-1]
        return {
            **record,
            **{name: last[name] for name in ("macs", "params", "macs_share", "params_share")},
            "metrics_before_fine_tuning": last["metrics_before_fine_tuning"],
            "delta_m": self.gain(record["metrics"], baseline),
            "delta_m_before_fine_tuning": self.gain(last["metrics_before_fine_tuning"], baseline),
            "seconds": round(time.monotonic() - began, 1),
        }

    def _round(
        self,
        cut: Callable[[nn.Module, int], tuple[nn.Module, dict[str, Any]]],
        model: nn.Module,
        number: int,
        rounds: int,
        records: list[dict[str, Any]],
    ) -> nn.Module:
        began = time.monotonic()
        smaller, facts = cut(model.eval(), number)
        seconds = time.monotonic() - began
        macs, params = self.macs(smaller), sum(own.numel() for own in smaller.parameters())
        dense_params = sum(own.numel() for own in self.dense.parameters())
        record: dict[str, Any] = {
            "macs": macs,
            "params": params,
            "macs_share": macs / self.dense_macs,
            "params_share": params / dense_params,
            "cut_seconds": round(seconds, 1),
            **facts,
        }
        say(
            f"  round {number}: {record['macs_share']:.2%} of MACs, {record['params_share']:.2%} of parameters"
        )
        records.append(record)
        recalibrate_batch_norm(smaller, self.images(NORM_BATCHES))
        if number == rounds:
            record["metrics_before_fine_tuning"] = self.judge(smaller)
        first, end = (self.total_steps * part // rounds for part in (number - 1, number))
        self.fine_tune(smaller, first, end - first)
        record["steps"] = end - first
        return smaller

    def fine_tune(
        self,
        model: nn.Module,
        first: int,
        count: int,
        regularizer: Regularizer | None = None,
        seed: int | None = None,
    ) -> None:
        """Train for some of the arm's steps, in place; the recipe's seed unless another is given."""
        options = training_options(self.recipe.train, self.recipe.seed if seed is None else seed, epochs=1)
        options = replace(options, optimizer=replace(options.optimizer, lr=self.lr))
        Trainer(
            model,
            self.parts.tasks,
            Steps(self.train, first, count),
            options,
            targets=self.parts.targets,
            weights=self.parts.weights,
            regularizer=regularizer,
            progress=Lines(),
            **self.parts.normalisation,
        ).fit()

    def judge(self, model: nn.Module) -> Results:
        """Return the metrics on the test split."""
        model = model.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        def predict(images: Tensor) -> Mapping[str, Tensor]:
            predictions: Mapping[str, Tensor] = model(self._prepared(images))
            return predictions

        batches = islice(self.parts.loader("test", self.recipe.train).epoch(0), self.test_batches)
        return evaluate(predict, batches, self.parts.tasks, targets=self.parts.targets).metrics

    def gain(self, metrics: Results, baseline: Results) -> dict[str, Any]:
        """Return delta_m over the dense network, in all and by task."""
        directions = {
            name: {info.name: info.higher_is_better for info in task.metrics.infos}
            for name, task in self.parts.tasks.items()
        }
        reduction = self.recipe.bench.delta_m
        gain = delta_m(metrics, baseline, directions, baseline_name="dense", reduction=reduction)
        return {"value": gain.value, "per_task": dict(gain.per_task), "left_out": list(gain.skipped)}

    def images(self, count: int) -> Iterator[Tensor]:
        """Yield the first training batches' images as networks take them."""
        for batch in islice(self.train.epoch(0), count):
            yield self._prepared(batch["image"])

    def losses(self, model: nn.Module) -> Iterator[dict[str, Tensor]]:
        """Yield the tasks' losses on the first training batches."""
        parts = self.parts
        for batch in islice(self.train.epoch(0), LOSS_BATCHES):
            predictions = model(self._prepared(batch["image"]))
            targets = {name: batch[parts.targets[name]] for name in parts.tasks}
            yield {
                name: parts.weights[name]
                * task.loss(predictions[name], targets[name])
                / task.loss.count(targets[name]).clamp(min=1)
                for name, task in parts.tasks.items()
            }

    def _prepared(self, images: Tensor) -> Tensor:
        return self.parts.prepared(images).contiguous(memory_format=torch.channels_last)


@dataclass
class LomtCuts:
    """Cuts by `lomt.prune` on what each task needs; every round keeps the same share of the MACs."""

    bench: Bench
    target: float
    rounds: int

    def cut(self, model: nn.Module, number: int) -> tuple[nn.Module, dict[str, Any]]:
        """Return the smaller network; the given one stays."""
        bench = self.bench
        wanted = self.target ** (number / self.rounds)
        share = min(1.0, wanted * bench.dense_macs / bench.macs(model))
        result = lomt.prune(model, bench.example, macs=share, importance="task_union", losses=bench.losses)
        return result.model, {"protected": dict(result.plan.protected)}


@dataclass
class TorchPruningCuts:
    """Torch-Pruning's cuts; only how many channels each step takes is ours to find.

    Every step counts its ratio on the channels that the dense network has, as those of one pruner with that many
    `iterative_steps` do.
    """

    bench: Bench
    target: float
    rounds: int
    dense_channels: dict[str, int] = field(default_factory=dict)

    def cut(self, model: nn.Module, number: int) -> tuple[nn.Module, dict[str, Any]]:
        """Bisect the ratio of removed channels; a network that no longer runs counts as cut too much.

        Raises:
            RuntimeError: If no ratio leaves a network that runs.
        """
        wanted = self.target ** (number / self.rounds)
        low, high, broken, shares = 0.0, 1.0, {}, {}
        best: tuple[float, nn.Module] | None = None
        for _ in range(_TRIALS):
            ratio = (low + high) / 2
            try:
                smaller = self._step(model, ratio, number)
                shares[ratio] = self.bench.macs(smaller) / self.bench.dense_macs
            except Exception as error:
                broken[f"{ratio:.5f}"] = f"{type(error).__name__}: {str(error)[:200]}"
                high = ratio
                continue
            miss = abs(shares[ratio] / wanted - 1)
            if best is None or miss < best[0]:
                best = miss, smaller
            if miss <= TOLERANCE / 5:
                break
            low, high = (low, ratio) if shares[ratio] < wanted else (ratio, high)
        facts: dict[str, Any] = {"macs_share_by_ratio": shares, "broken_trials": broken}
        if best is None:
            raise RuntimeError(f"No ratio of channels leaves a network that runs: {broken}")
        # The MACs jump where a threshold takes another block of eight in a wide layer: the nearest has to do.
        facts |= {"misses_macs_by": best[0], "is_within_tolerance": best[0] <= TOLERANCE}
        return best[1], facts

    def _step(self, model: nn.Module, ratio: float, number: int) -> nn.Module:
        """Return what the pruner's step of this number makes of a copy."""
        smaller = copy.deepcopy(model).eval()
        pruner = torch_pruning.pruner.BasePruner(
            smaller,
            self.bench.example,
            importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            iterative_steps=self.rounds,
            iterative_pruning_ratio_scheduler=_constant,  # the ratios of other steps are not taken
            ignored_layers=[decoder.head for decoder in smaller.decoders.values()],
            round_to=8,
        )
        pruner.current_step = number - 1
        pruner._scope_initial_channels.update(self.dense_channels)
        pruner.step()
        if not self.dense_channels:
            self.dense_channels.update(pruner._scope_initial_channels)
        return smaller


def _constant(ratio: float, steps: int) -> list[float]:
    """Return the ratio before and after every step."""
    return [ratio] * (steps + 1)


def table(result: Mapping[str, Any]) -> str:
    """Return one line an arm."""
    lines = [
        f"{'arm':<24}{'target':>8}{'MACs':>9}{'params':>9}{'delta_m':>10}{'untuned':>10}   per task",
        f"{'dense':<24}{'':>8}{result['dense']['macs'] / 1e6:>8.0f}M{result['dense']['params'] / 1e6:>8.2f}M",
    ]
    for record in result["arms"].values():
        name = f"{record['arm']:<24}{record['target']:>8.0%}"
        if "broken" in record:
            lines.append(f"{name}   broken: {record['broken'].splitlines()[0][:100]}")
            continue
        tasks = ", ".join(f"{task} {gain:+.1%}" for task, gain in record["delta_m"]["per_task"].items())
        lines.append(
            f"{name}{record['macs_share']:>9.2%}{record['params_share']:>9.2%}{record['delta_m']['value']:>+10.2%}"
            f"{record['delta_m_before_fine_tuning']['value']:>+10.2%}   {tasks}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
