"""Strict YAML: no key twice, numbers and booleans as in YAML 1.2, errors with line and column."""

import re
from collections.abc import Hashable
from typing import Any

import yaml

__all__ = ["YamlProblem", "read_yaml"]


class YamlProblem(ValueError):
    """Text that is no YAML; the message begins with line and column."""


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader without YAML 1.1's surprises: `1e-4` is a number, `on` and `no` are text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        _refuse_duplicates(node)
        return super().construct_mapping(node, deep=deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.rsplit(":", 1)[-1] in ("null", "merge")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?[0-9]+$"), list("-+0123456789")
)
_StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(
        r"^(?:[-+]?(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def _construct_int(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    return int(node.value)


_StrictLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)


def read_yaml(text: str) -> Any:
    """Read one YAML document made of plain values.

    Args:
        text: YAML.

    Returns:
        Mappings, lists and scalars; None for empty text.

    Raises:
        YamlProblem: If the text is no YAML, has a key twice or asks for anything but plain values.
    """
    try:
        return yaml.load(text, Loader=_StrictLoader)  # a safe loader
    except yaml.MarkedYAMLError as error:
        raise YamlProblem(_located(error)) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise YamlProblem(f"line {line}: {error.reason}") from error
    except RecursionError as error:
        raise YamlProblem("line 1, column 1: nested too deeply") from error


def _refuse_duplicates(node: yaml.MappingNode) -> None:
    first_line: dict[str, int] = {}
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag.endswith(":merge"):
            continue
        if key.value in first_line:
            raise yaml.constructor.ConstructorError(
                problem=f"key `{key.value}` stands here a second time, first on line {first_line[key.value]}",
                problem_mark=key.start_mark,
            )
        first_line[key.value] = key.start_mark.line + 1


def _located(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = f" ({error.context})" if error.context else ""
    return f"{place}{error.problem}{context}"
