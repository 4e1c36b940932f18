"""What pruning does to a model, as data: made before anything changes, shown, saved, and applied again."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["AttributeChange", "ComponentChange", "PruningPlan", "Replacement", "Step", "StepKind"]

StepKind = Literal["exact", "lossy"]


@dataclass(frozen=True)
class AttributeChange:
    """A number that a module keeps about its own sizes and that changes with them.

    Args:
        module: Dotted name; empty for the model itself.
        attribute: Name of the attribute, such as ``"num_heads"``.
        index: Position in an attribute that is a tuple or list; ``None`` where it is a number.
        value: The new value.
    """

    module: str
    attribute: str
    index: int | None
    value: int


@dataclass(frozen=True)
class Replacement:
    """A module that is exchanged for a smaller one as a whole.

    Args:
        module: Dotted name.
        kind: What takes its place; the kinds are those of :mod:`lomt.pruning.apply`.
        options: Settings of the new module, of types that JSON knows.
    """

    module: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """One thing that was done, with what it did to the outputs.

    Args:
        kind: ``"exact"`` where it provably leaves the outputs unchanged, ``"lossy"`` elsewhere.
        what: A few words without full stop; what was measured on the way follows after a semicolon.
        output_change: Measured relative change of every output, by its name.
        removed: Channels that this step took, by name of the coupled channels.
    """

    kind: StepKind
    what: str
    output_change: Mapping[str, float] = field(default_factory=dict)
    removed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ComponentChange:
    """What a plan does to one part of the model.

    Args:
        name: ``"shared"``, the name of an output, or ``"unused"``.
        channels: Prunable channels before and after.
        params: Parameters before and after.
        macs: Multiply-accumulates of one forward pass before and after.
    """

    name: str
    channels: tuple[int, int]
    params: tuple[int, int]
    macs: tuple[int, int]


@dataclass(frozen=True)
class PruningPlan:
    """Everything needed to make the smaller model from the one the plan was made for, and why.

    Args:
        keep: Kept channels of all coupled channels that lose some, by their name.
        tensors: Kept positions by name of the parameter or buffer and dimension.
        attributes: Numbers to be set on modules.
        replaced: Modules exchanged as a whole: dead blocks, unused layers.
        protected: Reason by name of the coupled channels that were not touched.
        counts: Channels before, by name of the coupled channels.
        params_before: Parameters of the model.
        params_after: Parameters of the smaller model.
        macs_before: Multiply-accumulates for the example inputs.
        macs_after: Multiply-accumulates of the smaller model for the same inputs.
        steps: What was done, in order.
        components: What it did to the parts.
    """

    keep: Mapping[str, tuple[int, ...]]
    tensors: Mapping[str, Mapping[int, tuple[int, ...]]]
    attributes: tuple[AttributeChange, ...]
    replaced: tuple[Replacement, ...]
    protected: Mapping[str, str]
    counts: Mapping[str, int]
    params_before: int
    params_after: int
    macs_before: int
    macs_after: int
    steps: tuple[Step, ...] = ()
    components: tuple[ComponentChange, ...] = ()

    @property
    def changes(self) -> tuple[Any, ...]:
        """What applying the plan changes, without what is known about it; empty where it changes nothing."""
        return tuple(part for part in (self.tensors, self.attributes, self.replaced) if part)

    @property
    def is_empty(self) -> bool:
        """Whether applying the plan changes nothing."""
        return not self.changes

    def to_dict(self) -> dict[str, Any]:
        """Describe the plan in types that JSON knows; positions are written as runs."""
        from lomt.pruning.plan_json import plan_to_dict

        return plan_to_dict(self)

    @classmethod
    def from_dict(cls, values: Any) -> "PruningPlan":
        """Read the result of :meth:`to_dict`; nothing in it is executed.

        Raises:
            ArtifactError: A key is missing or unknown, a value has another type or makes no sense.
        """
        from lomt.pruning.plan_json import plan_from_dict

        return plan_from_dict(values)

    def __str__(self) -> str:
        """Show the parts before and after, what was removed as a whole, what was protected, and the steps."""
        from lomt.pruning.plan_text import plan_table

        return plan_table(self)

    def explain(self) -> str:
        """Say for all coupled channels how many were kept and why, a line each."""
        return "\n".join(self._explanations())

    def _explanations(self) -> Iterator[str]:
        for name, count in self.counts.items():
            kept = len(self.keep[name]) if name in self.keep else count
            yield f"{name}: {kept} of {count} kept{self._reason(name, count - kept)}"
        for name in self.protected:
            if name not in self.counts:
                yield f"{name}: kept: protected, {self.protected[name]}"
        for replacement in self.replaced:
            yield f"{replacement.module}: removed as a whole ({replacement.kind})"

    def _reason(self, name: str, lost: int) -> str:
        if name in self.protected:
            return f": protected, {self.protected[name]}"
        taken = [
            f"{step.removed[name]} by {step.what.partition('; ')[0]} ({step.kind})"
            for step in self.steps
            if step.removed.get(name)
        ]
        if taken:
            return f": {', '.join(taken)}"
        return "" if lost else ": all are needed"
