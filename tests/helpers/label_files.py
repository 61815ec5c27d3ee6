"""Samples of training label files, read without a data configuration."""

from collections.abc import Sequence
from pathlib import Path

from thinker.data.bad_lines import Loaded, settle
from thinker.data.read import line_rules, scan_train_jsonl
from thinker.data.scale import MosScale


def read_train(
    paths: Sequence[Path],
    root: Path,
    scale: MosScale,
    *,
    content_pattern: str | None = None,
    skip_bad_lines: bool = False,
) -> Loaded:
    """The samples of all files, in order, as `load_train_examples` reads those of its sources."""
    seen: dict[str, str] = {}
    rules = line_rules(root, scale, content_pattern, require_files=True, seen=seen)
    return settle([scan_train_jsonl(path, rules) for path in paths], skip_bad_lines)
