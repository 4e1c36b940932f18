"""Learned and published sparsity at equal size: the NYU-v2 recipe's dense network at half and a quarter of its MACs.

    LOMT_DATA=... LOMT_WEIGHTS=... python benchmarks/bench_nyuv2_sparsify.py --run runs/nyuv2_lite0_lomt --seeds 3

`--run` is a run directory with a finished stage `dense`. Every arm starts from that network, has the same number of
optimizer steps on the same batches in the same order, and ends at the target's share of the dense MACs:

- `thresholds`, `group_lasso`, `both`: sparsity rises for the first `--rising` share of the steps, driven to the target
  by `lomt.sparsity.SparsityController`; then exact removal, which must leave the metrics as they are; the other steps
  heal.
- `global_magnitude`, `snip`, `disparse_static`, `disparse_pretrained`: `lomt.compress.channel_baselines` on whole
  coupled channels of the trained network, at once; exact removal; all steps heal. Saliencies read the first training
  batches.
- `torch_pruning`: `BasePruner` with `GroupMagnitudeImportance(p=2)`, global, `round_to=8`, its ratio bisected for the
  MACs, as in `bench_nyuv2_prune.py`; all steps heal.

Batch norm statistics are renewed from the first batches after every cut that is not learned. A seed changes the order
and the augmentation of the batches; the dense network and the splits stay. All are judged on the test split after every
step: sparse, smaller, healed. `delta_m` is relative to the dense network, which gets no further training.

Each result is written as it finishes; a second call goes on with those that are missing, also with more seeds. A call
with other settings refuses to mix.
"""

import argparse
import copy
import os
import random
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from bench_nyuv2_prune import LOSS_BATCHES, NORM_BATCHES, Bench, TorchPruningCuts
from stored_results import begin, say, store
from torch import nn

from lomt.compress.channel_baselines import ChannelBaseline, consumer_masks
from lomt.pruning.prune import analyse, prune
from lomt.sparsity import (
    CoupledGroupLasso,
    SparsityController,
    add_group_thresholds,
    bake_thresholds,
    coupled_groups,
    macs_share,
)
from lomt.sparsity.baselines import apply_masks
from lomt.training import SparseToTarget, recalibrate_batch_norm

LEARNED = ("thresholds", "group_lasso", "both")
BASELINES = ("global_magnitude", "snip", "disparse_static", "disparse_pretrained")
ARMS = (*LEARNED, *BASELINES, "torch_pruning")
TARGETS = (0.5, 0.25)
_RESULT = Path(__file__).parent / "results" / "nyuv2_sparsify.json"
_EXACT = 1e-3  # relative change of a test metric by exact removal


def main() -> None:
    """Run what is missing, store each result and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    bench = SparsifyBench(
        options.run, options.epochs, options.lr, options.steps, options.test_batches, options.rising
    )
    result = begin(options.output, bench.own_settings(options.threads), options.note)
    if "dense" not in result:
        result["dense"] = bench.dense_result()
        store(options.output, result)
    for seed in range(options.seeds):
        for target in options.targets:
            for arm in options.arms:
                key = f"{arm}@{target:g}#{seed}"
                if key in result["arms"]:
                    continue
                say(f"{key}: begins")
                result["arms"][key] = bench.run_seed(arm, target, seed, result["dense"]["metrics"])
                result["summary"] = summary(result)
                result["load_average_after"] = os.getloadavg()
                store(options.output, result)
    print(table(result))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", type=Path, required=True, help="run directory with a finished stage `dense`")
    parser.add_argument("--output", type=Path, default=_RESULT)
    parser.add_argument("--epochs", type=float, default=3.0, help="of training in total, in every arm")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate, rising and healing")
    parser.add_argument("--steps", type=int, help="in place of --epochs")
    parser.add_argument(
        "--rising", type=float, default=0.5, help="share of the steps in which sparsity rises"
    )
    parser.add_argument("--test-batches", type=int, help="judge on the first few only, to try this out")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=ARMS)
    parser.add_argument(
        "--targets", nargs="+", type=float, default=TARGETS, help="shares of the MACs to keep"
    )
    parser.add_argument("--seeds", type=int, default=3, help="how many, from 0")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--note", default="", help="kept in the result, such as why so few epochs")
    return parser.parse_args()


@dataclass
class SparsifyBench(Bench):
    """All arms' network, data, training and judgement, with a seed of its own for each repetition.

    Args:
        rising: Share of the steps in which sparsity rises.
    """

    rising: float = 0.5
    seed: int = field(init=False, default=0)

    def own_settings(self, threads: int) -> dict[str, Any]:
        """Return what the results depend on: no rounds, and no seed of the whole."""
        settings = {**self.settings(), "rising": self.rising, "threads": threads}
        return {name: own for name, own in settings.items() if name not in ("rounds_of_gradual_arms", "seed")}

    def run_seed(
        self, arm: str, target: float, seed: int, baseline: Mapping[str, Mapping[str, float]]
    ) -> dict[str, Any]:
        """Make sparse, remove, heal; what breaks is a result as well."""
        self._seed_with(seed)
        began = time.monotonic()
        record: dict[str, Any] = {"arm": arm, "target": target, "seed": seed, "steps": []}
        try:
            smaller, first = self._smaller(arm, target, record["steps"])
            if first < self.total_steps:
                self.fine_tune(smaller, first, self.total_steps - first, seed=self.seed)
            self._note("healed", smaller, record["steps"])
        except Exception as error:
            return {**record, "broken": f"{type(error).__name__}: {error}", "trace": traceback.format_exc()}
        last = record["steps"][-1]
        return {
            **record,
            **{name: last[name] for name in ("macs_share", "params_share", "metrics")},
            "delta_m": self.gain(last["metrics"], dict(baseline)),
            "seconds": round(time.monotonic() - began, 1),
        }

    def _seed_with(self, seed: int) -> None:
        self.seed = seed
        self.parts.dataset("train")  # opened with the recipe's own seed, which decides on splits
        seeded = copy.copy(self.parts)
        seeded.recipe = self.recipe.model_copy(update={"seed": self.recipe.seed + seed})
        self.train = seeded.loader("train", self.recipe.train)
        random.seed(seed)
        torch.manual_seed(seed)

    def _smaller(self, arm: str, target: float, steps: list[dict[str, Any]]) -> tuple[nn.Module, int]:
        """Return the network at its final size, and how many steps it has been trained for."""
        model = copy.deepcopy(self.dense)
        if arm == "torch_pruning":
            smaller, facts = TorchPruningCuts(self, target, 1).cut(model.eval(), 1)
            recalibrate_batch_norm(smaller, self.images(NORM_BATCHES))
            self._note("removed", smaller, steps, **facts)
            return smaller, 0
        trained = 0
        if arm in LEARNED:
            trained = max(1, round(self.rising * self.total_steps))
            facts = self._learn(model, arm, target, trained)
        else:
            facts = self._zero(model, arm, target)
        self._note("sparsified", model, steps, **facts)
        smaller = prune(model.eval(), self.example).model
        self._note("removed", smaller, steps)
        _check_exact(*(step["metrics"] for step in steps[-2:]))
        return smaller, trained

    def _learn(self, model: Any, arm: str, target: float, count: int) -> dict[str, Any]:
        structure = analyse(model.eval(), self.example)
        groups = coupled_groups(model, structure, component_of=model.component_of)
        controller = SparsityController(
            groups,
            target=1 - target,
            start=0,
            end=-(-count // self.recipe.train.accumulation_steps),
            measure=macs_share(groups, structure),
            thresholds=None if arm == "group_lasso" else add_group_thresholds(model, groups, per="stage"),
            lasso=None if arm == "thresholds" else CoupledGroupLasso(groups, lambda_=0.0, metric="euclidean"),
        )
        self.fine_tune(model, 0, count, SparseToTarget(controller), self.seed)
        bake_thresholds(model)
        return {"curve": [[point.step, point.goal, point.reached] for point in controller.curve]}

    def _zero(self, model: Any, arm: str, target: float) -> dict[str, Any]:
        structure = analyse(model.eval(), self.example)
        method = ChannelBaseline(arm, "macs", partial(_fresh, self))
        masks = method.masks(model, structure, 1 - target, component_of=model.component_of)
        agreement = method.agreement(model, structure, masks)
        apply_masks(model, consumer_masks(structure, model, masks.keep))
        recalibrate_batch_norm(model, self.images(NORM_BATCHES))
        return {
            "masks": masks.to_dict(),
            "agreement": None if agreement is None else agreement.to_dict(),
            "loss_batches": LOSS_BATCHES,
        }

    def _note(self, step: str, model: nn.Module, steps: list[dict[str, Any]], **facts: Any) -> None:
        params = sum(own.numel() for own in model.parameters())
        record = {
            "step": step,
            "macs_share": self.macs(model) / self.dense_macs,
            "params_share": params / sum(own.numel() for own in self.dense.parameters()),
            "metrics": self.judge(model),
            **facts,
        }
        say(f"  {step}: {record['macs_share']:.2%} of MACs, {record['params_share']:.2%} of parameters")
        steps.append(record)


def _fresh(bench: SparsifyBench, model: nn.Module) -> Any:
    """Return the losses of the first batches in the seed's order."""
    return bench.losses(model)


def _check_exact(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> None:
    """Refuse a removal that changed a metric.

    Raises:
        RuntimeError: If one differs by more than rounding makes pixels flip.
    """
    for task, metrics in before.items():
        for name, value in metrics.items():
            if not abs(after[task][name] - value) <= _EXACT * max(abs(value), 1e-2):
                raise RuntimeError(
                    f"Exact removal changed {name} of {task} from {value} to {after[task][name]}"
                )


def summary(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return mean and spread over seeds by arm and target: `delta_m` in all and by task, every metric."""
    found = {}
    for target in dict.fromkeys(record["target"] for record in result["arms"].values()):
        for arm in ARMS:
            all_seeds = [
                record
                for record in result["arms"].values()
                if (record["arm"], record["target"]) == (arm, target)
            ]
            records = [record for record in all_seeds if "broken" not in record]
            if all_seeds:
                found[f"{arm}@{target:g}"] = _over_seeds(records, len(all_seeds) - len(records))
    return found


def _over_seeds(records: Sequence[Mapping[str, Any]], broken: int) -> dict[str, Any]:
    if not records:
        return {"seeds": 0, "broken": broken}
    tasks = records[0]["metrics"]
    return {
        "seeds": len(records),
        "broken": broken,
        "macs_share": _spread([record["macs_share"] for record in records]),
        "params_share": _spread([record["params_share"] for record in records]),
        "delta_m": _spread([record["delta_m"]["value"] for record in records]),
        "delta_m_per_task": {
            task: _spread([record["delta_m"]["per_task"][task] for record in records])
            for task in records[0]["delta_m"]["per_task"]
        },
        "metrics": {
            task: {name: _spread([record["metrics"][task][name] for record in records]) for name in metrics}
            for task, metrics in tasks.items()
        },
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    """Return the mean, the sample's standard deviation (0 for one seed), and the ends."""
    return {
        "mean": mean(values),
        "deviation": stdev(values) if len(values) > 1 else 0.0,
        "low": min(values),
        "high": max(values),
    }


def table(result: Mapping[str, Any]) -> str:
    """Return one line an arm and target: means over seeds, deviations behind ±."""
    lines = [f"{'arm':<22}{'target':>8}{'seeds':>7}{'MACs':>8}{'params':>8}{'delta_m':>18}   per task"]
    for key, own in result.get("summary", {}).items():
        arm, _, target = key.partition("@")
        start = f"{arm:<22}{float(target):>8.0%}{own['seeds']:>7}"
        if not own["seeds"]:
            first = next(r for k, r in result["arms"].items() if k.startswith(f"{key}#"))
            lines.append(f"{start}   broken: {first['broken'].splitlines()[0][:90]}")
            continue
        tasks = ", ".join(f"{task} {_shown(gain)}" for task, gain in own["delta_m_per_task"].items())
        lines.append(
            f"{start}{own['macs_share']['mean']:>8.1%}{own['params_share']['mean']:>8.1%}"
            f"{_shown(own['delta_m']):>18}   {tasks}"
        )
    return "\n".join(lines)


def _shown(own: Mapping[str, float]) -> str:
    return f"{own['mean']:+.2%} ± {own['deviation']:.2%}"


if __name__ == "__main__":
    main()
