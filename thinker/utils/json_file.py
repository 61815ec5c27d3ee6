"""JSON files that others may have written: an object, or one line that names the file."""

import json
from pathlib import Path
from typing import Any

from thinker.utils.names import path_text


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises ValueError, naming the file, where it holds none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are a ValueError, too
        raise ValueError(f"{path_text(path)} is not JSON in UTF-8: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path_text(path)} holds {value!r:.80}, expected a JSON object")
    return value
