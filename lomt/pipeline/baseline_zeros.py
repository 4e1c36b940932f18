"""Zeros by a published baseline, at once or in rounds: every round begins from files and ends in files."""

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from lomt.atomic_file import write_atomically
from lomt.models import TaskNetwork, load_model, save_model
from lomt.pipeline.context import Context, wait_for_all
from lomt.pipeline.rewire_stage import initial_network
from lomt.pipeline.run_directory import StageFolder
from lomt.pipeline.sparse_decisions import Decision, Decisions, rising_epochs, target_of
from lomt.recipe import SparsifySettings
from lomt.sparsity.baselines import BASELINES, round_target
from lomt.training import FixedZeros

__all__ = ["BaselineZeros"]

_MODEL, _MASKS = "structure.json", "masks.safetensors"


@dataclass(frozen=True)
class BaselineZeros:
    """Makes weights of a network zero as a baseline decides.

    Each round has a folder ``round_<number>`` with the network as it was cut in ``cut/``, then the trained one; the
    last round's is not trained here.

    Args:
        context: Of the run.
        settings: The recipe's block.
        folder: Of the stage.
    """

    context: Context
    settings: SparsifySettings
    folder: StageFolder

    @property
    def rounds(self) -> int:
        """How many rounds of cutting there are."""
        return self.settings.rounds if BASELINES[self.settings.method].is_iterative else 1

    def make(self) -> TaskNetwork:
        """Do the rounds that have not been done; return the network with the last one's zeros."""
        for number in range(1, self.rounds + 1):
            wait_for_all()
            if self.context.is_writer and not (self._place(number) / "cut" / _MODEL).exists():
                self._cut(number)
            wait_for_all()
            is_trained = number == self.rounds or (self._place(number) / _MODEL).exists()
            wait_for_all()
            if not is_trained:
                self._train(number)
        return load_model(self._place(self.rounds) / "cut")

    def facts(self) -> dict[str, Any]:
        """Return what the last round decided, for the record."""
        facts: dict[str, Any] = json.loads((self._place(self.rounds) / "decision.json").read_text())
        return facts

    def histories(self) -> Iterator[tuple[str, Path]]:
        """Yield a name and the file of epoch records of every training."""
        for number in range(1, self.rounds):
            yield f"round {number}", self._place(number) / "history.jsonl"

    def clear(self) -> None:
        """Delete the rounds' folders."""
        for number in range(1, self.rounds + 1):
            shutil.rmtree(self._place(number), ignore_errors=True)

    def _place(self, number: int) -> Path:
        return self.folder.path / f"round_{number}"

    def _cut(self, number: int) -> None:
        settings, context, place = self.settings, self.context, self._place(number)
        share = round_target(target_of(settings)[1], number, self.rounds)
        if self.rounds > 1:
            context.progress.message(f"sparsify: round {number} of {self.rounds}, {share:.1%} to go")
        torch.manual_seed(context.recipe.seed)
        decisions = Decisions(context, settings)
        scored = self._scored(number, decisions).to(context.accelerator(settings.train).device)
        within = load_file(self._place(number - 1) / _MASKS) if number > 1 else None
        decision = decisions.of(scored, share, within)
        network = self._goes_on_from(scored)
        decisions.zeroed(network, decision)
        self._write(place, network, decision)

    def _write(self, place: Path, network: TaskNetwork, decision: Decision) -> None:
        keep = {name: mask.contiguous() for name, mask in decision.masks.keep.items()}
        facts = {
            "masks": decision.masks.to_dict(),
            "agreement": None if decision.agreement is None else decision.agreement.to_dict(),
        }
        self.folder.write_json(f"{place.name}/decision.json", facts)
        write_atomically(place / _MASKS, lambda path: _save(keep, path))
        save_model(network, place / "cut")  # with its last file the round is cut

    def _scored(self, number: int, decisions: Decisions) -> TaskNetwork:
        """Return the network on whose weights a round decides."""
        if number > 1:
            return load_model(self._place(number - 1))
        if self.settings.start == "published" and BASELINES[self.settings.method].scored_on == "initial":
            network = self._initial()
            decisions.renew_statistics(network)
            return network
        return self._trained()

    def _goes_on_from(self, scored: TaskNetwork) -> TaskNetwork:
        """Return the network whose weights are to be zero, as it is before that."""
        goes_on_from = BASELINES[self.settings.method].goes_on_from
        if self.settings.start == "published" and goes_on_from == "initial":
            return self._initial()
        return scored

    def _trained(self) -> TaskNetwork:
        return load_model(self.context.directory.path / self.settings.network)

    def _initial(self) -> TaskNetwork:
        start = self.context.recipe.rewire.start if self.settings.network == "rewired" else "initial"
        return initial_network(self.context, self._trained().spec, start)

    def _train(self, number: int) -> None:
        settings, context, place = self.settings, self.context, self._place(number)
        model = load_model(place / "cut")
        trainer = context.trainer(
            model,
            context.parts.tasks,
            settings.train,
            place,
            seed=context.recipe.seed + number,
            epochs=self._epochs(number),
            regularizer=FixedZeros(),
        )
        trainer.fit()
        if context.is_writer:
            save_model(model, place)

    def _epochs(self, number: int) -> int:
        """Share out the epochs of rising sparsity among the trainings between rounds."""
        ramp, shares = rising_epochs(self.settings), self.rounds - 1
        return ramp * number // shares - ramp * (number - 1) // shares


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    save_file(dict(tensors), path)
