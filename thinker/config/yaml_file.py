"""YAML from a file or the command line: plain values only, and nothing that could mean two things.

`yaml.safe_load` builds no objects, but of a key given twice it keeps the last, and an alias may
unfold a kilobyte into gigabytes as soon as somebody prints it. Both are errors here, and so is what
JSON cannot hold: dates, sets, bytes, and keys that are no text (to YAML, `on` is true).
"""

from pathlib import Path
from typing import Any, ClassVar

import yaml

# What PyYAML raises for values that are none, such as `!!bool maybe`, `!!timestamp x`, `!!int ""`
# or a nesting of thousands: not all of it is a YAMLError.
_BAD_YAML = (
    yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError,
)  # fmt: skip
_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


def _refuse(loader: Any, node: yaml.Node) -> None:
    raise yaml.constructor.ConstructorError(
        None, None, f"a value of {node.tag}; if it is meant as text, quote it", node.start_mark
    )


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases, with unique keys that are text, and with plain values only."""

    yaml_constructors: ClassVar[dict[str | None, Any]] = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is not None and tag.rpartition(":")[2] in _PLAIN
    } | {None: _refuse}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key twice", node.start_mark)
        for key in mapping:
            if not isinstance(key, str):
                problem = f"the key {key!r}, expected text; quote it"
                raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return mapping


def load_yaml(content: str | bytes, where: str) -> Any:
    """The value, of plain types. Raises ValueError, opening with `where`, for anything else."""
    try:
        loader = _Loader(content)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except _BAD_YAML as error:
        raise ValueError(f"{where} is not YAML: {error!s:.500}") from None


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises ValueError, naming the file, where there is none."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; give an existing YAML") from None
    settings = load_yaml(content, str(path))
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds {settings!r:.80}, expected a mapping of settings")
    return settings
