"""Checkpoints in layouts that others released → policies.

A new layout is one file with a converter, and one line in `LAYOUTS`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from thinker.policies.convert import internvl_chat, vida, vital, vqa2, vqathinker
from thinker.policies.convert.reading import read_config
from thinker.policies.convert.writing import all_shapes
from thinker.policies.shards import read_headers


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How checkpoints of one layout become policies."""

    convert: Callable[[Path, Path, str], int]
    """(source folder, new target folder, setting) → tensors written; ValueError for a source that
    is not of the layout."""

    settings: tuple[str, ...]
    """Ways to run the weights that the converter knows; the first is the default."""


LAYOUTS = {
    "vqathinker": Layout(
        convert=vqathinker.convert_checkpoint, settings=tuple(vqathinker.SETTINGS)
    ),
    "vital": Layout(convert=vital.convert_checkpoint, settings=tuple(vital.SETTINGS)),
    "vida": Layout(convert=vida.convert_checkpoint, settings=tuple(vida.SETTINGS)),
    "vqa2": Layout(convert=vqa2.convert_checkpoint, settings=tuple(vqa2.SETTINGS)),
}


def convert_released(
    source: Path, target: Path, layout: str | None = None, setting: str | None = None
) -> int:
    """Convert a released checkpoint into the new folder `target`; returns the tensors written.

    layout: a key of `LAYOUTS`, None for that of the weights. setting: one of the layout's, None for
    its first. Raises ValueError for anything else, and for what `source` lacks or has too much of.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if target.exists():
        raise ValueError(f"{target} exists; give a folder that does not")
    name = layout or layout_of(source)
    known = LAYOUTS[name].settings
    if setting is not None and setting not in known:
        raise ValueError(
            f"setting is {setting!r}, expected one of {', '.join(known)} for the layout {name}"
        )
    return LAYOUTS[name].convert(source, target, setting or known[0])


def layout_of(source: Path) -> str:
    """Whose layout a checkpoint has, by its configuration and the shapes of its weights."""
    model_type = read_config(source).get("model_type")
    for name, module in (("vqa2", vqa2), ("vida", vida)):
        if model_type == module.MODEL_TYPE:
            return name
    if model_type != internvl_chat.MODEL_TYPE:
        raise ValueError(
            f"{source / 'config.json'} has model_type {model_type!r}, expected "
            f"{internvl_chat.MODEL_TYPE!r} (VQAThinker, VITAL), {vqa2.MODEL_TYPE!r} (VQA²) or "
            f"{vida.MODEL_TYPE!r} (ViDA)"
        )
    shapes = all_shapes(read_headers(source))
    internvl_chat.refuse_parts(source, shapes)
    mode = internvl_chat.motion_mode(shapes)
    return internvl_chat.LAYOUT_OF_MODE.get(mode or "", "vqathinker")
