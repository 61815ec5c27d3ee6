"""Paths that label files name: where they lead, and which source content they show."""

import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from thinker.data.records import BadValueError, show
from thinker.utils.names import path_text

MAX_NAME_BYTES = 255  # common file systems take no longer name


@dataclass(frozen=True, kw_only=True)
class MediaRules:
    """What every path of one file is held to."""

    root: Path
    """The folder that paths are relative to, symbolic links resolved."""
    called: str
    """What messages call it: "video root" or "media root"."""
    content_pattern: re.Pattern[str] | None
    """What finds the source content in a path, see `compile_content_pattern`."""
    require_files: bool
    """Whether a line whose video or picture is not there is bad."""
    folders: dict[Path, Path] = field(default_factory=dict)
    """Folders resolved so far: resolving every path anew is most of the time of reading a jsonl."""

    def locate(self, named: str) -> Path:
        """The absolute path of a file that a line names; raises BadValueError with the reason."""
        relative = PurePosixPath(named)
        if relative.is_absolute() or ".." in relative.parts or not relative.name:
            raise BadValueError(
                f"path {show(named)} must name a file below the {self.called}, without .. or a "
                "leading /"
            )
        if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in relative.parts):
            raise BadValueError(
                f"path {show(named)} has a part of more than {MAX_NAME_BYTES} bytes"
            )
        path = self.root / relative
        try:
            if path.parent not in self.folders:
                self.folders[path.parent] = path.parent.resolve()
            resolved = path.resolve() if path.is_symlink() else self.folders[path.parent]
            is_file = path.is_file()
            exists = is_file or path.exists()
        except (OSError, RuntimeError) as error:  # RuntimeError: links that form a loop
            raise BadValueError(f"path {show(named)} cannot be followed: {error}") from None
        if not resolved.is_relative_to(self.root):
            raise BadValueError(
                f"path {show(named)} leaves the {self.called} {self.root} by a symbolic link"
            )
        if exists and not is_file:
            raise BadValueError(f"{path} is not a regular file")
        if self.require_files and not exists:
            raise BadValueError(f"file {path} does not exist")
        return path

    def content(self, named: str) -> str:
        """The source content of a file that a line names, as text."""
        relative = str(PurePosixPath(named))
        if self.content_pattern is None:
            return path_text(relative)
        match = self.content_pattern.fullmatch(relative)
        if match is None or not match["content"]:
            raise BadValueError(
                f"path {show(relative)} does not match content_pattern "
                f"{self.content_pattern.pattern!r}"
            )
        return path_text(match["content"])


def media_rules(
    root: Path,
    content_pattern: str | None,
    *,
    require_files: bool,
    called: str = "media root",
) -> MediaRules:
    """The rules for the files of one root; raises ValueError where it is no folder."""
    resolved = Path(root).resolve()
    if not resolved.is_dir():
        kind = called.split()[0]
        raise ValueError(
            f"{called} {root} is not a folder; give the one that {kind} paths are relative to"
        )
    return MediaRules(
        root=resolved,
        called=called,
        content_pattern=None
        if content_pattern is None
        else compile_content_pattern(content_pattern),
        require_files=require_files,
    )


def compile_content_pattern(pattern: str) -> re.Pattern[str]:
    r"""A pattern for whole paths as files name them, whose one group, `content`, is the source.

    `(?P<content>[A-Za-z0-9]+)_crf_[0-9]+_[0-9]+fps\.mp4` gives "1Runner" for
    "1Runner_crf_0_24fps.mp4". Raises ValueError for any other group, and for a repeated one such as
    `(?:a+)+`, which can take time exponential in the length of a name.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"content_pattern {pattern!r} is not a regular expression: {error}"
        ) from None
    if compiled.groups != 1 or list(compiled.groupindex) != ["content"]:
        raise ValueError(
            f"content_pattern {pattern!r}: expected exactly one group, named: (?P<content>…); "
            "write any other group as (?:…)"
        )
    bare = re.sub(r"\\.|\[\^?\]?[^\]]*\]", "x", pattern, flags=re.DOTALL)
    if re.search(r"\)[*+{]", bare):
        raise ValueError(
            f"content_pattern {pattern!r} repeats a group; repeat single characters or classes only"
        )
    return compiled
