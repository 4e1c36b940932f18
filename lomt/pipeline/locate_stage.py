"""Stage ``locate``: find the layer that each task needs, by the recipe's method, and say how sure that is."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lomt.atomic_file import write_text_atomically
from lomt.branching import DensityProfile, branch_point, format_branch_points
from lomt.pipeline.context import Context
from lomt.pipeline.decoder_inputs import locate_inputs
from lomt.pipeline.finer_trials import prefer_finer
from lomt.pipeline.locate_joint import joint_key, joint_profiles
from lomt.pipeline.locate_report import write_report
from lomt.pipeline.locate_single_task import single_task_key, single_task_profiles
from lomt.pipeline.run_directory import StageFolder

__all__ = ["run_locate"]


@dataclass(frozen=True)
class Method:
    """A way to find what each task needs.

    Args:
        key: Settings that its training depends on.
        profiles: Trains, or reads back, and returns the evidence by task.
        evidence: What a layer's share in the evidence means.
    """

    key: Callable[[Context], dict[str, Any]]
    profiles: Callable[[Context, StageFolder], dict[str, DensityProfile]]
    evidence: str


METHODS: Mapping[str, Method] = {
    "single_task": Method(
        single_task_key,
        single_task_profiles,
        "share of channel groups that survived sparse training (mean over trials)",
    ),
    "joint": Method(
        joint_key,
        joint_profiles,
        "share of the lambda path for which the task went on reading it (mean over trials)",
    ),
}


def run_locate(context: Context) -> None:
    """Find every task's branch point; writes ``locate/``.

    Each method trains in a folder of its own, ``locate/<method>``, which stays when the recipe changes to the other;
    ``branch_points.yaml``, ``profiles.json`` and the report are those of the recipe's method.
    """
    settings = context.recipe.locate
    method = METHODS[settings.method]
    origin = context.keys["dense"] if settings.start == "dense" else None
    folder = context.folder("locate", context.settings_key(), origin)
    trials = context.folder(f"locate/{settings.method}", method.key(context), origin)
    # Another reading of the same trials needs no training.
    reading = _reading(context)
    if folder.is_finished and trials.is_finished and folder.read_json("profiles.json")["reading"] == reading:
        return
    profiles = method.profiles(context, trials)
    chosen = {
        task: branch_point(profile, rule=reading["rule"], activity=reading["activity"])
        for task, profile in profiles.items()
    }
    tried: dict[str, dict[str, float]] = {}
    if settings.finer_epochs:
        tried = {task: prefer_finer(context, trials, task, layer) for task, layer in chosen.items()}
        chosen = {task: min(losses, key=losses.__getitem__) for task, losses in tried.items()}
    for task, layer in chosen.items():
        context.progress.message(f"locate: {task} needs {layer}")
    inputs = locate_inputs(context, chosen)
    found = {
        "reading": reading,
        "branch_points": chosen,
        "inputs": {task: [asdict(one) for one in own] for task, own in inputs.items()},
        "profiles": [profile.to_dict() for profile in profiles.values()],
        "finer": tried,
    }
    trials.write_json("profiles.json", found)
    trials.finish()
    if context.is_writer:
        text = format_branch_points(
            chosen,
            profiles,
            context.parts.layers,
            tried,
            evidence=method.evidence,
            inputs=inputs,
        )
        write_text_atomically(folder.path / "branch_points.yaml", text)
        write_report(context, folder)
    folder.write_json("profiles.json", found)
    folder.finish()


def _reading(context: Context) -> dict[str, Any]:
    settings = context.recipe.locate
    is_joint = settings.method == "joint"
    own = {"inputs_start": context.recipe.rewire.start} if context.parts.own_model is not None else {}
    return own | {
        "method": settings.method,
        "rule": settings.joint.rule if is_joint else settings.rule,
        "activity": settings.joint.point if is_joint else settings.activity,
        "granularity": settings.granularity,
        "finer_epochs": settings.finer_epochs,
    }
