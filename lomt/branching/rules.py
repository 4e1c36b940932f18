"""From a density profile to a branch point: the written rules, by name.

The published protocol picks the layer by looking at plots; each rule here is one reading of them.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise

from lomt.branching.evidence import DensityProfile, LayerEvidence
from lomt.errors import UnknownNameError

__all__ = ["RULES", "branch_point"]

_RUN = 2  # dead layers in a row that count as the end of what a task needs


def before_first_dead_run(profile: DensityProfile, activity: float) -> int:
    """Return the deepest layer before the first run of dead layers.

    A run is two dead layers in a row, or dead layers up to the last one. Layers that cannot die neither begin nor
    end a run: such a layer between dead ones only carries features past them.
    """
    can_die = [i for i, layer in enumerate(profile.layers) if layer.is_bypassable]
    dead = [i for i in can_die if not profile.layers[i].is_active(activity)]
    for first in dead:
        run = can_die[can_die.index(first) : can_die.index(first) + _RUN]
        if all(i in dead for i in run):
            return max((i for i in can_die if i < first), default=0)
    return len(profile.layers) - 1


def last_active_bypassable(profile: DensityProfile, activity: float) -> int:
    """Return the deepest layer that could have died and did not."""
    return _deepest(profile, lambda layer: layer.is_bypassable and layer.is_active(activity))


def deepest_active(profile: DensityProfile, activity: float) -> int:
    """Return the deepest active layer, also one that could not die."""
    return _deepest(profile, lambda layer: layer.is_active(activity))


def density_threshold(profile: DensityProfile, activity: float) -> int:
    """Return the last layer before the mean density falls below half of the densest layer's and stays there."""
    highest = max(layer.density for layer in profile.layers)
    return _deepest(profile, lambda layer: layer.is_bypassable and layer.density >= 0.5 * highest)


def steepest_fall(profile: DensityProfile, activity: float) -> int:
    """Return the last layer before the density's steepest relative fall, or the deepest where none is by a fifth.

    Of layers that can die, densities at or below ``activity`` counting as that. Needs no threshold on density and
    so reads profiles of different overall sparsity alike.
    """
    can_die = [i for i, layer in enumerate(profile.layers) if layer.is_bypassable]
    densities = [max(profile.layers[i].density, activity, 1e-9) for i in can_die]
    falls = [after / before for before, after in pairwise(densities)]
    if not falls or min(falls) > 0.8:
        return len(profile.layers) - 1
    return can_die[falls.index(min(falls))]


def longest_survivor(profile: DensityProfile, activity: float) -> int:
    """Return the shallowest of the layers whose density is within a tenth of the highest.

    For evidence of the joint method: a deeper layer of a residual network has most of what a shallower one has, and
    lives on nearly as long.
    """
    if not any(layer.is_bypassable for layer in profile.layers):
        return len(profile.layers) - 1
    highest = max(layer.density for layer in profile.layers)
    return next(i for i, layer in enumerate(profile.layers) if layer.density >= 0.9 * highest)


def deepest_survivor(profile: DensityProfile, activity: float) -> int:
    """Return the deepest layer whose density is above ``activity``; where there is none, the longest survivor.

    For evidence of the joint method: a task reads many shallow layers to the end, because they are cheap and add a
    little to what a deep one says. How deep it has to read is told by the deepest that is worth its cost.
    """
    alive = [i for i, layer in enumerate(profile.layers) if layer.is_active(activity)]
    return alive[-1] if alive else longest_survivor(profile, activity)


RULES: Mapping[str, Callable[[DensityProfile, float], int]] = {
    "before_first_dead_run": before_first_dead_run,
    "last_active_bypassable": last_active_bypassable,
    "deepest_active": deepest_active,
    "density_threshold": density_threshold,
    "steepest_fall": steepest_fall,
    "longest_survivor": longest_survivor,
    "deepest_survivor": deepest_survivor,
}


def branch_point(
    profile: DensityProfile, *, rule: str = "before_first_dead_run", activity: float = 0.01
) -> str:
    """Return the layer that a task's decoder should read.

    Args:
        profile: The task's evidence.
        rule: A key of `RULES`.
        activity: Share of surviving groups above which a layer is active in a trial, 0 to 1.

    Raises:
        UnknownNameError: If there is no such rule.
        ValueError: If the profile has no layers.
    """
    if rule not in RULES:
        raise UnknownNameError("rule", rule, RULES)
    if not profile.layers:
        raise ValueError(f"Expected the profile of task `{profile.task}` to have layers, but it has none.")
    return profile.layers[RULES[rule](profile, activity)].layer


def _deepest(profile: DensityProfile, is_wanted: Callable[[LayerEvidence], bool]) -> int:
    wanted = [i for i, layer in enumerate(profile.layers) if is_wanted(layer)]
    if wanted:
        return wanted[-1]
    # Where no layer can die there is no evidence against any; where all that can have died, the first is enough.
    return 0 if any(layer.is_bypassable for layer in profile.layers) else len(profile.layers) - 1
