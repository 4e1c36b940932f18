"""`lomt group`: affinities between the tasks, groups, and a recipe for each group's network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lomt.atomic_file import write_text_atomically
from lomt.grouping import (
    LARGEST_FOR_SDP,
    MEASURES,
    PROJECTIONS,
    Affinity,
    FitOptions,
    GradientTable,
    Grouping,
    Membership,
    Reach,
    cluster,
    collect_gradients,
    estimate_affinity,
    format_groups,
    lifted,
    linear_losses,
    read_groups,
    require_cvxpy,
    require_matplotlib,
    shared_parameters,
    subsets_for,
    write_heat_map,
    write_membership_map,
)
from lomt.models import TaskNetwork, load_model
from lomt.pipeline.context import Context, open_context, wait_for_all
from lomt.pipeline.group_recipes import network_text, write_recipes
from lomt.pipeline.group_search import membership_by_data_maps, membership_by_search
from lomt.pipeline.skipped import note_skipped
from lomt.pipeline.train_stage import run_train
from lomt.recipe import GroupSettings, Recipe
from lomt.training import AffinityProbe, BatchLosses, Progress, evaluate

__all__ = ["GroupSummary", "group"]

_SEARCHES = {"dmtg": membership_by_search, "data_maps": membership_by_data_maps}


@dataclass(frozen=True)
class GroupSummary:
    """What `lomt group` found.

    Args:
        evidence: Between the tasks, or of tasks in groups; None where groups were given by hand.
        grouping: Which tasks go together.
        recipes: One file a group.
        folder: Where the artefacts are.
    """

    evidence: Affinity | Membership | None
    grouping: Grouping
    recipes: tuple[Path, ...]
    folder: str

    @property
    def groups(self) -> tuple[tuple[str, ...], ...]:
        """Names of the tasks that each network serves."""
        return self.grouping.groups

    def __str__(self) -> str:
        rows = [
            f"{network_text(*network)}: lomt run {path}"
            for network, path in zip(self.grouping.networks, self.recipes, strict=True)
        ]
        shown = [] if self.evidence is None else [str(self.evidence), ""]
        return "\n".join([*shown, f"{len(self.groups)} networks", *rows, f"Artefacts in {self.folder}"])


def group(
    recipe: Recipe, out: Path, *, groups: Path | None = None, progress: Progress | None = None
) -> GroupSummary:
    """Say which of a recipe's tasks share a network; writes ``group/`` into the run directory.

    Args:
        recipe: Validated, with at least two tasks.
        out: The run directory; its dense network is trained first where it is not there yet.
        groups: A file as ``groups.yaml``: only the recipes are written, for these groups.
        progress: Told what runs.

    Raises:
        ValueError: If the recipe has one task.
        LomtError: As the stages of `lomt run`; if the solver finds no optimum; if a package is missing.
    """
    if len(recipe.tasks) < 2:
        raise ValueError(f"Expected recipe `{recipe.name}` to have at least two tasks, but got one.")
    if groups is not None:
        chosen = read_groups(groups, list(recipe.tasks))
        return GroupSummary(None, chosen, write_recipes(recipe, chosen, out / "group"), str(out / "group"))
    settings = recipe.group
    _require_packages(settings, len(recipe.tasks))
    context = open_context(recipe, out, progress)
    if settings.method == "gradtag":
        run_train(context)
        wait_for_all()
    origin = context.keys.get("dense") or context.settings_key("train")
    folder = context.folder("group", recipe.group.model_dump(mode="json"), origin)
    place = folder.path
    stored = "membership.json" if settings.method in _SEARCHES else "affinity.json"
    if not folder.is_finished:
        evidence, found = _find(context, place)
        folder.write_json(stored, {**evidence.to_dict(), "grouping": found.to_dict()})
        if context.is_writer:
            _write_groups(recipe, evidence, found, place, stored)
        folder.finish()
    note_skipped(context)
    wait_for_all()
    evidence, found = _read(folder.read_json(stored))
    recipes = tuple(place / f"{recipe.name}_{number}.yaml" for number in range(1, len(found.groups) + 1))
    return GroupSummary(evidence, found, recipes, str(place))


def _require_packages(settings: GroupSettings, count: int) -> None:
    """Miss what will be needed before anything is trained."""
    if settings.heat_map:
        require_matplotlib()
    is_relaxed = settings.clustering == "sdp" or (settings.clustering == "auto" and count <= LARGEST_FOR_SDP)
    if settings.method not in _SEARCHES and is_relaxed:
        require_cvxpy()


def _find(context: Context, place: Path) -> tuple[Affinity | Membership, Grouping]:
    settings, count = context.recipe.group, len(context.recipe.tasks)
    if settings.method in _SEARCHES:
        context.progress.message(f"group: {count} tasks in {settings.groups} groups by {settings.method}")
        membership = _SEARCHES[settings.method](context, place)
        return membership, membership.grouping
    context.progress.message(f"group: affinities of {count} tasks by {settings.method}")
    affinity = _gradtag(context) if settings.method == "gradtag" else _measured(context, place)
    return affinity, _cluster(context.recipe, affinity)


def _read(stored: dict[str, Any]) -> tuple[Affinity | Membership, Grouping]:
    tasks, own = tuple(stored["tasks"]), stored["grouping"]
    groups, helpers = (tuple(tuple(names) for names in own[name]) for name in ("groups", "helpers"))
    kind, name = (Affinity, "affinity") if "affinity" in stored else (Membership, "membership")
    evidence = kind(tasks, torch.tensor(stored[name], dtype=torch.float64), stored["method"])
    return evidence, Grouping(groups, own["method"], {}, helpers)


def _write_groups(
    recipe: Recipe, evidence: Affinity | Membership, found: Grouping, place: Path, stored: str
) -> None:
    picture = place / "heat_map.png"
    if recipe.group.heat_map:
        if isinstance(evidence, Affinity):
            write_heat_map(picture, evidence, found.groups)
        else:
            write_membership_map(picture, evidence)
    files = f"{stored} and heat_map.png" if recipe.group.heat_map else stored
    how = f"{found.method} on affinities by {evidence.method}" if "affinity" in stored else found.method
    write_text_atomically(place / "groups.yaml", format_groups(found, f"{how}, see {files}"))
    write_recipes(recipe, found, place)


def _cluster(recipe: Recipe, affinity: Affinity) -> Grouping:
    settings = recipe.group
    penalty = settings.penalty if settings.groups is None else None
    return cluster(
        affinity.tasks,
        affinity.matrix,
        groups=settings.groups,
        penalty=0.0 if settings.groups is None and penalty is None else penalty,
        method=settings.clustering,
        standardise=settings.standardise,
        seed=recipe.seed,
        helpers=settings.helpers,
        # Only gradtag's diagonal is in the unit of its other entries.
        alone=affinity.matrix.diag() if affinity.method == "gradtag" else None,
    )


def _gradtag(context: Context) -> Affinity:
    recipe, settings, parts = context.recipe, context.recipe.group, context.parts
    device = context.accelerator(recipe.train).device
    model = load_model(context.directory.path / "dense").to(device)
    parameters = shared_parameters(model, norms=settings.norms)
    sizes = tuple(parameter.numel() for parameter in parameters.values())
    projection = PROJECTIONS[settings.projection](sizes, settings.dimension, recipe.seed)
    has_validation = parts.dataset("validation") is not None
    train, held_out = _batches(context, has_validation)

    def table_of(batches: Sequence[Mapping[str, Tensor]], what: str) -> GradientTable:
        """Collect the gradients of some batches."""
        context.progress.start(f"gradients, {what}", sum(len(batch["image"]) for batch in batches))
        table = collect_gradients(
            model,
            parts.tasks,
            batches,
            projection,
            parameters,
            targets=parts.targets,
            prepare=lambda images: parts.prepared(images).to(device),
            on_samples=context.progress.advance,
        )
        context.progress.finish()
        return table

    table = table_of(train, "training")
    judged = table_of(held_out, "held out") if settings.evaluate == "projected" else None

    def losses_of(change: Tensor) -> Mapping[str, float]:
        """Return every task's held-out loss after a change."""
        change = reach.limit(change, projection, parameters)
        if judged is not None:
            return linear_losses(judged, change)
        with lifted(parameters, projection, change.to(device)):
            return _losses(context, model, held_out, device)

    subsets = subsets_for(
        list(parts.tasks), size=settings.subset_size, count=settings.subsets, seed=recipe.seed
    )
    options = FitOptions(settings.ridge, settings.offset, settings.flip, seed=recipe.seed)
    reach = Reach(settings.reach, settings.length)
    facts = {"held_out": "validation" if has_validation else "train", "parameters": sum(sizes)}
    context.progress.start("subsets", len(subsets))
    affinity = estimate_affinity(
        table, subsets, losses_of, options, facts=facts, on_subset=context.progress.advance
    )
    context.progress.finish()
    return affinity


def _batches(
    context: Context, has_validation: bool
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Return batches for the fits and for their judgement, no image in both."""
    settings, train = context.recipe.group, context.recipe.train
    size = train.batch_size
    first = -(-settings.samples // size)
    more = -(-settings.held_out // size)
    batches = context.parts.loader("train", train).epoch(0)
    own = list(islice(batches, first))
    if has_validation:
        return own, list(islice(context.parts.loader("validation", train).epoch(0), more))
    rest = list(islice(batches, more))
    if not rest:  # fewer images than asked for: the last quarter judges
        cut = max(1, len(own) * 3 // 4)
        own, rest = own[:cut], own[cut:]
    if not rest:
        raise ValueError(
            f"Expected the training images to fill at least 2 batches of {size}, because some of them judge, "
            "but they do not. Give validation images or a smaller `train.batch_size`."
        )
    return own, rest


def _losses(
    context: Context, model: nn.Module, batches: Sequence[Mapping[str, Tensor]], device: torch.device
) -> dict[str, float]:
    parts = context.parts
    return evaluate(
        lambda images: model(parts.prepared(images.cpu()).to(device)),
        [{name: value.to(device) for name, value in batch.items()} for batch in batches],
        parts.tasks,
        targets=parts.targets,
    ).losses


def _measured(context: Context, place: Path) -> Affinity:
    """Train the dense network again and measure after every epoch."""
    recipe, settings, parts = context.recipe, context.recipe.group, context.parts
    torch.manual_seed(recipe.seed)
    model: TaskNetwork = context.build(parts.model_spec())
    device = context.accelerator(recipe.train).device
    shared = list(shared_parameters(model, norms=True).values())
    probe = AffinityProbe(
        lambda losses: MEASURES[settings.method](losses, shared, settings.learning_rate),
        BatchLosses(parts.tasks, parts.targets, lambda images: parts.prepared(images).to(device)),
        parts.loader("train", recipe.train),
        settings.batches,
    )
    context.trainer(model, parts.tasks, recipe.train, place, regularizer=probe).fit()
    return Affinity(tuple(parts.tasks), probe.mean, settings.method)
