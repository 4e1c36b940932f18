"""The training loop: multitask or single-task, dense or sparse, one process or several.

One optimizer step reads ``accumulation_steps`` batches. Losses are sums divided by the number of valid entries of the
whole step over all processes, so that neither accumulation nor the number of processes changes the gradient.
"""

import time
from collections.abc import Mapping
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from lomt.errors import TrainingError
from lomt.tasks import Task
from lomt.training.aggregation import make_aggregator
from lomt.training.batch_losses import BatchLosses
from lomt.training.bayesagg import BayesAgg, StepLabels
from lomt.training.checkpoint import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from lomt.training.distillation import Distillation
from lomt.training.engine import make_accelerator
from lomt.training.evaluate import Evaluation, evaluate
from lomt.training.history import History
from lomt.training.interfaces import Batch, Loader, Regularizer
from lomt.training.interrupt import Interruption, deferred_interrupt
from lomt.training.live_tasks import LiveTasks
from lomt.training.options import TrainingOptions
from lomt.training.progress import Progress, SilentProgress
from lomt.training.resumable import Position, Resumable
from lomt.training.schedules import Patience, PlateauFactor, make_schedule
from lomt.training.sync_batch_norm import synchronised_batch_norm
from lomt.training.task_gradients import TaskGradients
from lomt.training.weighting import Moment, TrainingView, Weighting, make_weighting

__all__ = ["Trainer"]

_GPU_READ_STEPS = 25  # reading a value from the GPU waits for it


class Trainer:
    """Train a model on tasks; killed and constructed again, it goes on from its checkpoint.

    Args:
        model: Maps images, (batch, 3, height, width), to raw predictions by task; trained in place.
        tasks: What is learned, by name.
        loader: Training batches.
        options: How.
        mean: Of the image channels, subtracted before the model.
        std: Of the image channels, divided by.
        targets: Name of each task's target in the batches; the task's own name where absent.
        weights: The recipe's weight by task; 1 where absent.
        weighting: In place of the one that the options name.
        validation: Batches for the validation loss after every epoch.
        regularizer: Applied with every optimizer step.
        distillation: A teacher whose losses are added to the tasks' own, in the records of training as well.
        optimizer_state: What an optimizer of these parameters has gathered, as :attr:`optimizer_state` returns it;
            a checkpoint goes before it.
        checkpoint: File of the resumable state.
        history: File of the epoch records.
        accelerator: Device, precision and processes; made from the options without it.
        progress: Told of every step.

    Example:
        >>> from lomt.training import TrainingOptions
        >>> TrainingOptions(epochs=1).schedule.kind
        'cosine'
    """

    def __init__(
        self,
        model: nn.Module,
        tasks: Mapping[str, Task],
        loader: Loader,
        options: TrainingOptions,
        *,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
        targets: Mapping[str, str] | None = None,
        weights: Mapping[str, float] | None = None,
        weighting: Weighting | None = None,
        validation: Loader | None = None,
        regularizer: Regularizer | None = None,
        distillation: Distillation | None = None,
        optimizer_state: Mapping[str, Tensor] | None = None,
        checkpoint: Path | None = None,
        history: Path | None = None,
        accelerator: Accelerator | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._tasks, self._loader, self._options = dict(tasks), loader, options
        self._targets = {name: (targets or {}).get(name, name) for name in tasks}
        self._validation, self._regularizer, self._checkpoint = validation, regularizer, checkpoint
        self._distillation, self._first_state = distillation, optimizer_state
        self._engine = accelerator or make_accelerator(options.precision)
        self._progress = progress or SilentProgress()
        self._history = History(
            history if self._engine.is_main_process else None, tensorboard=options.tensorboard
        )
        self._model = model.to(self._engine.device)
        if self._engine.device.type == "cpu":
            self._model = self._model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if weighting is None:
            weighting = make_weighting(
                options.weighting,
                {name: (weights or {}).get(name, 1.0) for name in tasks},
                options.weighting_options,
                target=options.target,
            )
        self._weighting = weighting.to(self._engine.device)
        self._weighting.begin(options.epochs * self._steps_per_epoch)
        made = options.aggregation and make_aggregator(
            options.aggregation,
            list(tasks),
            options.aggregation_options,
            target=options.target,
            seed=options.seed,
        )
        self._bayes = made if isinstance(made, BayesAgg) else None
        self._aggregator = None if isinstance(made, BayesAgg) else made or None
        if self._bayes is not None:
            self._check_bayes()
            self._bayes.attach(self._model, self._tasks, self._reduced)
        self._optimizer = options.optimizer.build(self._model, list(self._weighting.parameters()))
        self._live = LiveTasks(self._model, self._optimizer, self._tasks)
        self._base_rates = [group["lr"] for group in self._optimizer.param_groups]
        schedule = options.schedule
        self._schedule = make_schedule(schedule.kind, warmup=schedule.warmup, final=schedule.final)
        self._plateau = (
            PlateauFactor(schedule.factor, schedule.patience) if schedule.kind == "plateau" else None
        )
        self._patience = Patience(options.early_stopping or 10**9, options.min_change)
        self._mean, self._std = (
            torch.tensor(v, device=self._engine.device)[:, None, None] for v in (mean, std)
        )
        self._at = Position(
            torch.zeros(len(tasks), dtype=torch.float64, device=self._engine.device),
            torch.zeros(len(tasks), dtype=torch.int64),
        )
        self._resumable = Resumable(
            self._model,
            self._weighting,
            self._optimizer,
            self._live,
            self._patience,
            self._plateau,
            regularizer,
            self._at,
            self._bayes,
        )

    def fit(self) -> tuple[dict[str, Any], ...]:
        """Train to the end and return the epoch records; the model then holds the result.

        Raises:
            TrainingError: If a task's loss is not finite; the last good checkpoint stays.
        """
        torch.manual_seed(self._options.seed)
        if self._regularizer is not None:
            self._regularizer.attach(self._optimizer, self._model)
        self._weighting.attach(self._view())
        self._restore()
        self._progress.start("training", self._options.epochs * self._steps_per_epoch, self._at.step)
        with (
            synchronised_batch_norm(self._model, self._engine.device) as model,
            deferred_interrupt() as interruption,
        ):
            self._wrapped, self._stepper = self._engine.prepare(
                model, self._optimizer, device_placement=[False] * 2
            )
            while self._at.epoch < self._options.epochs and self._at.stop is None:
                self._train_epoch(interruption)
                self._end_epoch()
        # bf16 leaves a wrapper around the model's forward.
        self._engine.unwrap_model(self._wrapped, keep_fp32_wrapper=False)
        self._live.restore()
        if self._options.keep == "best" and self._at.best:
            self._model.load_state_dict({**self._model.state_dict(), **self._at.best})
        self._progress.finish(f"stopped: {self._at.stop}" if self._at.stop else "")
        return self._history.records

    @torch.no_grad()
    def predict(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return raw predictions in evaluation mode for images in 0 to 1.

        Once training is over they are those of the float32 network, whatever the precision of training.
        """
        self._model.eval()
        predictions: Mapping[str, Tensor] = self._model(self._prepared(images))
        return predictions

    @property
    def optimizer_state(self) -> dict[str, Tensor]:
        """What the optimizer has gathered, as tensors named ``model.<parameter>.<entry>``."""
        return optimizer_tensors(self._optimizer, self._resumable.names)

    @property
    def _steps_per_epoch(self) -> int:
        return -(-self._loader.batches_per_epoch // self._options.accumulation_steps)

    def _train_epoch(self, interruption: Interruption) -> None:
        if self._regularizer is not None:
            self._regularizer.before_epoch(self._at.epoch)
        if self._at.batch == 0:
            self._weighting.before_epoch(self._at.epoch)
        self._model.train()
        self._epoch_began = saved_at = time.monotonic()
        self._waited_before = self._loader.wait_s
        batches = iter(self._loader.epoch(self._at.epoch, self._at.batch))
        while micro_batches := list(islice(batches, self._options.accumulation_steps)):
            self._at.sums += self._take_step(micro_batches)
            self._at.batch += len(micro_batches)
            self._at.step += 1
            self._show_step()
            if interruption.is_requested:
                self._save()
                raise KeyboardInterrupt
            if time.monotonic() - saved_at > self._options.checkpoint_s:
                self._save()
                saved_at = time.monotonic()

    def _take_step(self, micro_batches: list[Batch]) -> Tensor:
        self._set_rates()
        self._weighting.before_step(self._moment())
        self._live.retire(self._weighting.retired())
        moved = [
            {k: v.to(self._engine.device, non_blocking=True) for k, v in b.items()} for b in micro_batches
        ]
        counts = self._reduced(torch.stack([self._counts(batch) for batch in moved]).sum(0)).clamp(min=1.0)
        coefficients = self._weighting.coefficients()
        losses = torch.zeros_like(self._at.sums)
        with self._live.only(self._weighting.active()) as active:
            gradients = self._task_gradients(active)
            for index, batch in enumerate(moved):
                is_last = index == len(moved) - 1 and gradients is None and self._bayes is None
                with nullcontext() if is_last else self._engine.no_sync(self._wrapped):
                    parts = self._forward(batch, counts, active)
                    if self._bayes is None:
                        self._go_backward(parts, coefficients, gradients)
                    else:
                        labels = self._labels(batch, counts, self._at.batch + index)
                        self._bayes.backward(parts, coefficients, labels)
                losses += torch.stack(
                    [parts[t].detach().double() if t in parts else losses.new_zeros(()) for t in self._tasks]
                )
        losses = self._reduced(losses)
        self._check_before_step(losses)
        found = dict(zip(self._tasks, losses, strict=True))
        self._weighting.observe(found)
        if self._bayes is not None:
            self._bayes.reduce(self._engine, self._model)
        if gradients is not None:
            gradients.reduce(self._engine)
            self._weighting.observe_norms(gradients.norms(), found)
            gradients.write(coefficients, self._aggregator, self._at.step)
        self._at.taken += torch.tensor([task in active for task in self._tasks])
        if self._options.gradient_clip is not None:
            self._engine.clip_grad_norm_(self._model.parameters(), self._options.gradient_clip)
        self._stepper.step()
        self._stepper.zero_grad()
        return losses

    def _go_backward(
        self,
        parts: Mapping[str, Tensor],
        coefficients: Mapping[str, Tensor],
        gradients: TaskGradients | None,
    ) -> None:
        if gradients is not None:
            gradients.add(parts, coefficients)
            return
        weighed = [coefficients[t].to(part.device) * part for t, part in parts.items()]
        # DDP averages gradients over processes; the sum is meant.
        self._engine.backward(torch.stack(weighed).sum() * self._engine.num_processes)

    def _task_gradients(self, active: tuple[str, ...]) -> TaskGradients | None:
        """Return room for single gradients where the sum of losses will not do.

        DDP waits for the gradients of all parameters, so that with some tasks out it is left aside as well.
        """
        if self._bayes is not None:
            return None
        is_partial = self._engine.num_processes > 1 and len(active) < len(self._tasks)
        if self._aggregator or self._weighting.wants_gradient_norms or is_partial:
            return TaskGradients(self._model, list(self._tasks))
        return None

    def _moment(self) -> Moment:
        epochs = self._at.step / self._steps_per_epoch
        return Moment(self._at.step, epochs, epochs / self._options.epochs)

    def _view(self) -> TrainingView:
        return TrainingView(
            self._model,
            self._optimizer,
            BatchLosses(self._tasks, self._targets, self._prepared),
            self._validation or self._loader,
            self._options.epochs,
            lambda value: self._reduced(value) / self._engine.num_processes,
        )

    def _counts(self, batch: Batch) -> Tensor:
        targets = {name: batch[target] for name, target in self._targets.items()}
        counts = torch.stack([task.loss.count(targets[name]).double() for name, task in self._tasks.items()])
        if self._distillation is None:
            return counts
        return torch.cat([counts, self._distillation.counts(self._tasks, targets)])

    def _forward(self, batch: Batch, counts: Tensor, active: tuple[str, ...]) -> dict[str, Tensor]:
        images = self._prepared(batch["image"])
        targets = {name: batch[target] for name, target in self._targets.items()}
        with nullcontext() if self._bayes is None else self._bayes.watching(self._model):
            predictions = self._wrapped(images)
        own, further = counts[: len(self._tasks)], counts[len(self._tasks) :]
        losses = {
            name: task.loss(predictions[name].float(), targets[name]) / count.float()
            for (name, task), count in zip(self._tasks.items(), own, strict=True)
            if name in active
        }
        if self._distillation is not None:
            tasks = {name: self._tasks[name] for name in losses}
            kept = [name in active for name in self._tasks]
            taught = self._distillation.sums(tasks, images, predictions, targets) / further[kept].float()
            losses = {name: losses[name] + more for name, more in zip(losses, taught, strict=True)}
        return losses

    def _labels(self, batch: Batch, counts: Tensor, number: int) -> StepLabels:
        targets = {name: batch[target] for name, target in self._targets.items()}
        whole = self._at.epoch * self._loader.batches_per_epoch + number
        return StepLabels(targets, dict(zip(self._tasks, counts, strict=False)), whole)

    def _check_bayes(self) -> None:
        if self._weighting.wants_gradient_norms:
            raise TrainingError(
                f"Expected `weighting` to need no lengths of gradients with aggregation `bayesagg`, which has no "
                f"gradient of a single task, but got {self._options.weighting}."
            )
        if self._distillation is not None:
            raise TrainingError(
                "Expected no teacher with aggregation `bayesagg`, which knows labels only, but there is one. "
                "Leave `distill` out, or choose another aggregation."
            )

    def _prepared(self, images: Tensor) -> Tensor:
        images = (images.to(self._engine.device) - self._mean) / self._std
        is_cpu = self._engine.device.type == "cpu"
        return images.contiguous(memory_format=torch.channels_last) if is_cpu else images

    def _reduced(self, values: Tensor) -> Tensor:
        if self._engine.num_processes == 1:
            return values
        summed: Tensor = self._engine.reduce(values, reduction="sum")
        return summed

    def _set_rates(self) -> None:
        factor = self._schedule(self._at.step / max(self._options.epochs * self._steps_per_epoch, 1))
        if self._plateau is not None:
            factor *= self._plateau.value
        for group, base in zip(self._optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = base * factor

    def _check_before_step(self, losses: Tensor) -> None:
        """On CPU every step is checked before it touches the weights; on a GPU now and then."""
        if self._may_wait:
            self._raise_unless_finite(losses + self._at.sums)

    @property
    def _may_wait(self) -> bool:
        return self._engine.device.type == "cpu" or self._at.step % _GPU_READ_STEPS == 0

    def _show_step(self) -> None:
        steps = self._at.step - self._at.epoch * self._steps_per_epoch
        if self._may_wait:
            self._progress.advance(loss=float(self._at.sums.sum()) / max(steps, 1))
        else:
            self._progress.advance()

    def _raise_unless_finite(self, losses: Tensor) -> None:
        for name, is_finite in zip(self._tasks, torch.isfinite(losses).tolist(), strict=True):
            if not is_finite:
                kept = f" The last good checkpoint is kept at {self._checkpoint}." if self._checkpoint else ""
                raise TrainingError(
                    f"Expected the loss of task `{name}` to be finite, but it is not at step {self._at.step} "
                    f"(epoch {self._at.epoch}).{kept} Lower the learning rate, clip gradients or check the targets."
                )

    def _end_epoch(self) -> None:
        self._raise_unless_finite(self._at.sums)
        seconds, waited = time.monotonic() - self._epoch_began, self._loader.wait_s
        record: dict[str, Any] = {
            "epoch": self._at.epoch,
            "step": self._at.step,
            "seconds": round(seconds, 3),
            "data_wait_share": round((waited - self._waited_before) / max(seconds, 1e-9), 4),
            "lr": self._optimizer.param_groups[0]["lr"],
            "train_loss": {
                task: total / taken
                for task, total, taken in zip(
                    self._tasks, self._at.sums.tolist(), self._at.taken.tolist(), strict=True
                )
                if taken
            },
        }
        record |= self._weighting.after_epoch(self._at.epoch)
        validation = self._validate()
        if validation is not None:
            record["validation_loss"] = validation.losses
            record["validation"] = validation.metrics
            target = self._options.target
            self._judge(validation.loss if target is None else validation.losses[target])
        self._weighting.judge(validation)
        if self._regularizer is not None:
            record |= self._regularizer.after_epoch(self._at.epoch, self._model, validation)
            self._at.stop = record.get("stop") or self._at.stop
        self._history.add(record)
        self._at.epoch, self._at.batch = self._at.epoch + 1, 0
        self._at.sums.zero_()
        self._at.taken.zero_()
        self._save()

    def _validate(self) -> Evaluation | None:
        if self._validation is None:
            return None
        return evaluate(
            self.predict,
            self._validation.epoch(0),
            {name: self._tasks[name] for name in self._live.tasks},
            targets=self._targets,
            accelerator=self._engine,
        )

    def _judge(self, loss: float) -> None:
        if self._options.keep == "best" and loss < self._patience.best:
            self._at.best = {n: v.detach().to("cpu", copy=True) for n, v in self._model.state_dict().items()}
        if self._patience.is_over(loss):
            self._at.stop = f"no better validation loss in {self._options.early_stopping} epochs"
        if self._plateau is not None:
            self._plateau.after_epoch(loss)

    def _save(self) -> None:
        if self._checkpoint is None or not self._engine.is_main_process:
            return
        self._raise_unless_finite(self._at.sums)
        save_checkpoint(self._checkpoint, self._resumable.state())

    def _restore(self) -> None:
        state = load_checkpoint(self._checkpoint) if self._checkpoint is not None else None
        if state is None:
            restore_optimizer(self._optimizer, self._resumable.names, self._first_state or {})
        else:
            self._resumable.restore(state)
        self._history.rewind(self._at.epoch)
