"""``groups.yaml``: which tasks share a network, plain enough to be edited by hand."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from lomt.errors import ArtifactError, UnknownNameError

__all__ = ["format_groups", "read_groups"]

_HEADING = """\
# Which tasks share a network: one list a network.
# Written by `lomt group`; edit it and run `lomt group RECIPE --groups FILE` to have recipes of other groups.
"""


def format_groups(groups: Sequence[Sequence[str]], remark: str = "") -> str:
    """Return the commented YAML text.

    Args:
        groups: Names of tasks.
        remark: One line about how they were found.
    """
    lines = "".join(f"- [{', '.join(group)}]\n" for group in groups)
    return _HEADING + (f"# {remark}\n" if remark else "") + lines


def read_groups(path: Path, tasks: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Read and check the file.

    Args:
        path: The YAML file.
        tasks: Every one must be in one group.

    Raises:
        ArtifactError: If the file is missing, no list of lists of names, lacks a task or has one twice.
        UnknownNameError: If it names a task that there is not.
    """
    if not path.exists():
        raise ArtifactError(f"Expected groups in {path}, but there is no such file. Run `lomt group` first.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ArtifactError(f"Groups {path} are not YAML: {error}.") from error
    is_list = isinstance(content, list) and all(isinstance(group, list) and group for group in content)
    if not is_list or not all(isinstance(task, str) for group in content for task in group):
        raise ArtifactError(f"Expected {path} to hold lines `- [task, task]`, but got {content!r}.")
    named = [task for group in content for task in group]
    for task in named:
        if task not in tasks:
            raise UnknownNameError("task", task, tasks)
    for task in tasks:
        if named.count(task) != 1:
            got = "none" if task not in named else f"{named.count(task)}"
            raise ArtifactError(f"Expected task `{task}` to be in one group of {path}, but it is in {got}.")
    return tuple(tuple(group) for group in content)
