"""Stage ``sparsify``: zeros up to a target, exact removal of what they make needless, healing; judged at each step."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lomt.atomic_file import write_text_atomically
from lomt.compress.channel_baselines import removable_part
from lomt.errors import SparsityTargetError
from lomt.models import TaskNetwork, save_model
from lomt.models.factory import factory_candidates
from lomt.pipeline.baseline_zeros import BaselineZeros
from lomt.pipeline.context import Context, wait_for_all
from lomt.pipeline.learned_zeros import LearnedZeros
from lomt.pipeline.loss_batches import FirstBatches
from lomt.pipeline.run_directory import StageFolder
from lomt.pipeline.sparse_decisions import rising_epochs, target_of
from lomt.pruning.origin import Origin, origin_of, set_origin
from lomt.pruning.plan import PruningPlan
from lomt.pruning.prune import prune
from lomt.pruning.storage import load, save
from lomt.recipe import SparsifySettings
from lomt.recipe.sparsify_settings import LEARNED_METHODS
from lomt.sparsity import RemovalReport, measure_removable
from lomt.sparsity.baselines import prunable_weights
from lomt.structure import trace_structure
from lomt.training import FixedZeros

__all__ = ["run_sparsify"]

_SHORT = 0.01  # a target missed by more is said
_RECORD = "metrics.json"  # written last: with it a step is done


def run_sparsify(context: Context) -> None:
    """Make the network that the recipe names sparse and judge it after every step; writes ``sparse/``.

    Without a ``sparsify`` block in the recipe nothing is done.
    """
    settings = context.recipe.sparsify
    if settings is None:
        return
    folder = context.folder("sparse", context.settings_key("sparsify"), context.keys[settings.network])
    if not folder.is_finished:
        name, share = target_of(settings)
        context.progress.message(
            f"sparsify: {settings.method}, {settings.network} network, {share:.1%} of its {name} to go"
        )
        try:
            _Steps(context, settings, folder).run()
        except SparsityTargetError as error:
            raise SparsityTargetError(f"Stage sparsify: {error}") from error


@dataclass(frozen=True)
class _Steps:
    """The steps of one sparsify stage, each with a folder of its own until the stage is done.

    Args:
        context: Of the run.
        settings: The recipe's block.
        folder: Of the stage.
    """

    context: Context
    settings: SparsifySettings
    folder: StageFolder

    def run(self) -> None:
        """Do the steps that have not been done, and put their artefacts in place."""
        zeros = (LearnedZeros if self.settings.method in LEARNED_METHODS else BaselineZeros)(
            self.context, self.settings, self.folder
        )
        steps = {"sparsified": zeros.make, "removed": self._removed, "healed": self._healed}
        records = [self._given(), *(self._step(name, make) for name, make in steps.items())]
        model = self._network("healed")
        facts = self._facts(zeros.facts())
        if self.context.is_writer:
            write_text_atomically(self.folder.path / "history.jsonl", "".join(self._history(zeros)))
            save(model, self.folder.path)
        self.folder.write_json("sparsity.json", facts)
        self.folder.write_json(
            "metrics.json",
            {
                "split": "test",
                "network": self.settings.network,
                "branch_points": model.branch_points,
                "metrics": records[-1]["metrics"],
                "losses": records[-1]["losses"],
                "steps": records,
            },
        )
        self.folder.finish()
        if self.context.is_writer:
            self._clear()
            zeros.clear()

    def _history(self, zeros: LearnedZeros | BaselineZeros) -> Iterator[str]:
        """Yield the epoch records of all trainings as lines, each with its phase."""
        for phase, path in [*zeros.histories(), ("healing", self.folder.path / "healing.history.jsonl")]:
            if path.exists():
                for line in path.read_text(encoding="utf-8").splitlines():
                    yield json.dumps({"phase": phase, **json.loads(line)}) + "\n"

    def _step(self, name: str, make: Callable[[], TaskNetwork]) -> dict[str, Any]:
        """Make and judge a network, unless that is done."""
        place = self.folder.path / name
        wait_for_all()
        is_done = (place / _RECORD).exists()
        wait_for_all()
        if not is_done:
            model = make()
            if self.context.is_writer:
                save(model, place) if origin_of(model).plans else save_model(model, place)
            self._judge(name)
        wait_for_all()
        return self.folder.read_json(f"{name}/{_RECORD}")

    def _judge(self, name: str) -> None:
        wait_for_all()
        model = self._network(name)
        train, tasks = self.settings.train, self.context.parts.tasks
        judge = self.context.trainer(model, tasks, train, self.folder.path / "test")
        result = self.context.evaluate(judge, tasks, train, f"{name} network")
        record = {"step": name, "metrics": result.metrics, "losses": result.losses, **self._cost(name)}
        self.folder.write_json(f"{name}/{_RECORD}", record)

    def _given(self) -> dict[str, Any]:
        """Return the record of the network before the first step."""
        stored = self.context.directory.find_json(self.settings.network, _RECORD)
        assert stored is not None, f"{self.settings.network} has run"
        own = {"metrics": stored["metrics"], "losses": stored["losses"]}
        return {"step": self.settings.network, **own, **self._cost(self.settings.network)}

    def _removed(self) -> TaskNetwork:
        """Return the network without what its zeros make needless; the outputs stay the same."""
        model = self._network("sparsified")
        (factory,) = factory_candidates(model)
        set_origin(model, Origin(factory))
        smaller = prune(model, self._example()).model
        assert isinstance(smaller, TaskNetwork)
        return smaller

    def _healed(self) -> TaskNetwork:
        """Return the smaller network trained for the epochs that are left; zeros in single weights stay."""
        settings, context = self.settings, self.context
        model = self._network("removed")
        epochs = settings.train.epochs - rising_epochs(settings)
        if epochs:
            context.trainer(
                model,
                context.parts.tasks,
                settings.train,
                self.folder.path,
                name="healing",
                epochs=epochs,
                regularizer=FixedZeros() if settings.granularity == "unstructured" else None,
            ).fit()
        return model

    def _facts(self, decided: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is zero, removable and removed, part by part, and what was decided on the way."""
        name, share = target_of(self.settings)
        before, after = self._network("sparsified"), self._network("healed")
        (plan,) = origin_of(after).plans
        reached = self._reached(before, plan)
        measure = name if self.settings.granularity == "structured" else "weights"
        if share - reached[measure] > _SHORT:
            hint = "; give more epochs or a higher `sparsify.initial_logit`" if measure == "weights" else ""
            self.context.progress.message(
                f"sparsify: only {reached[measure]:.1%} of the {measure} went, of {share:.1%} asked for{hint}"
            )
        return {
            "method": self.settings.method,
            "granularity": self.settings.granularity,
            "target": {name: share},
            "reached": reached,
            "sparsified": self._report(before).to_dict(),
            "healed": self._report(after, before).to_dict(),
            **decided,
        }

    def _reached(self, before: TaskNetwork, plan: PruningPlan) -> dict[str, float]:
        """Return the shares of the network that are gone, by what they are shares of."""
        reached = {
            "params": 1 - plan.params_after / plan.params_before,
            "macs": 1 - plan.macs_after / plan.macs_before,
        }
        weights = self._prunable_weights(before)
        reached["weights"] = 1 - sum(int(own.count_nonzero()) for own in weights) / sum(
            own.numel() for own in weights
        )
        if self.settings.granularity == "structured":
            structure = removable_part(trace_structure(before, self._example()))
            prunable = [
                own
                for own in structure.prunable
                if own.name not in plan.protected and self._may_go(before.component_of(own.slices[0].tensor))
            ]
            kept = sum(len(plan.keep[own.name]) if own.name in plan.keep else own.count for own in prunable)
            reached["removable"] = 1 - kept / sum(own.count for own in prunable)
        return reached

    def _prunable_weights(self, model: TaskNetwork) -> list[torch.Tensor]:
        """Return the convolutions' weights in the parts that may become sparse."""
        weights = prunable_weights(model).items()
        return [weight for name, weight in weights if self._may_go(model.component_of(name))]

    def _may_go(self, component: str) -> bool:
        return self.settings.components is None or component in self.settings.components

    def _report(self, model: TaskNetwork, dense: TaskNetwork | None = None) -> RemovalReport:
        structure = trace_structure(model, self._example())
        counts: dict[str, int] = {}
        for name, parameter in dense.named_parameters() if dense is not None else ():
            part = model.component_of(name)
            counts[part] = counts.get(part, 0) + parameter.numel()
        return measure_removable(
            model, structure, component_of=model.component_of, dense_parameters=counts or None
        )

    def _cost(self, name: str) -> dict[str, int]:
        model = self._network(name)
        structure = trace_structure(model, self._example())
        return {"params": structure.params(), "macs": structure.macs()}

    def _network(self, name: str) -> TaskNetwork:
        """Return a step's network, or the one of an earlier stage."""
        place = self.folder.path / name
        model = load(place if place.exists() else self.context.directory.path / name)
        assert isinstance(model, TaskNetwork)
        return model

    def _example(self) -> torch.Tensor:
        return FirstBatches(self.context.parts, self.settings.train, torch.device("cpu")).example()

    def _clear(self) -> None:
        for name in ("sparsified", "removed", "healed"):
            shutil.rmtree(self.folder.path / name, ignore_errors=True)
        (self.folder.path / "healing.history.jsonl").unlink(missing_ok=True)
