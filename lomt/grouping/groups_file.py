"""``groups.yaml``: which tasks share a network, plain enough to be edited by hand."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from lomt.errors import ArtifactError, UnknownNameError
from lomt.grouping.cluster import Grouping

__all__ = ["format_groups", "read_groups"]

_HEADING = """\
# Which tasks share a network: one list a network, `+task` for one that it is trained on but another network serves.
# Written by `lomt group`; edit it and run `lomt group RECIPE --groups FILE` to have recipes of other groups.
"""


def format_groups(grouping: Grouping, remark: str = "") -> str:
    """Return the commented YAML text.

    Args:
        grouping: What is written.
        remark: One line about how it was found.
    """
    lines = "".join(
        f"- [{', '.join([*served, *(f'+{task}' for task in helpers)])}]\n"
        for served, helpers in grouping.networks
    )
    return _HEADING + (f"# {remark}\n" if remark else "") + lines


def read_groups(path: Path, tasks: Sequence[str]) -> Grouping:
    """Read and check the file.

    Args:
        path: The YAML file.
        tasks: Every one must be served by one network.

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
    served = tuple(tuple(task for task in group if not task.startswith("+")) for group in content)
    helpers = tuple(tuple(task[1:] for task in group if task.startswith("+")) for group in content)
    _check(path, tasks, served, helpers)
    return Grouping(served, "by hand", {}, helpers if any(helpers) else ())


def _check(path: Path, tasks: Sequence[str], served: Any, helpers: Any) -> None:
    named = [task for group in served for task in group]
    for task in (*named, *(task for group in helpers for task in group)):
        if task not in tasks:
            raise UnknownNameError("task", task, tasks)
    for task in tasks:
        if named.count(task) != 1:
            got = "none" if task not in named else f"{named.count(task)}"
            raise ArtifactError(f"Expected task `{task}` to be in one group of {path}, but it is in {got}.")
    for own, more in zip(served, helpers, strict=True):
        if not own:
            raise ArtifactError(
                f"Expected every group of {path} to serve a task, but got one of `+{more[0]}` alone."
            )
        for task in more:
            if task in own or more.count(task) > 1:
                raise ArtifactError(
                    f"Expected `+{task}` to be in a group of {path} once, but it is there twice."
                )
