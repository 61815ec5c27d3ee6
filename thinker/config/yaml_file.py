"""YAML from a file or the command line: plain values only, and nothing that could mean two things.

`yaml.safe_load` builds no objects, but of a key given twice it keeps the last, and an alias may
unfold a kilobyte into gigabytes as soon as somebody prints it. Both are errors here.
"""

from typing import Any

import yaml

# What PyYAML raises for values that are none, such as `!!bool maybe`, `!!timestamp x`, `!!int ""`
# or a nesting of thousands: not all of it is a YAMLError.
_BAD_YAML = (
    yaml.YAMLError, ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError,
)  # fmt: skip


class _Loader(yaml.SafeLoader):
    """SafeLoader without aliases and with unique keys."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias; write the value out", mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            raise yaml.constructor.ConstructorError(None, None, "a key twice", node.start_mark)
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
