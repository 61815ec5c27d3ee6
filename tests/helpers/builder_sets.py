"""A small set of media with everything that builders can know of them."""

from pathlib import Path

from PIL import Image

from tests.helpers.places import REPO
from tests.helpers.video_factory import write_video
from thinker.data.builders.build import KINDS, Plan
from thinker.data.builders.draft import Style
from thinker.data.builders.facts import LevelRule
from thinker.data.builders.sources import Sources
from thinker.data.builders.stage1 import Cut
from thinker.data.builders.vida import ROLES
from thinker.tasks.level import LEVELS

LABELS = REPO / "tests" / "fixtures" / "builders"
SOURCES = Sources(
    mos=(LABELS / "mos.json",),
    distortions=LABELS / "distortions.json",
    stalls=LABELS / "stalls.jsonl",
    depictions=LABELS / "depictions.jsonl",
    split="train",
)

PICTURES = Sources(metadata=LABELS / "metadata.json")


def write_media(folder: Path) -> Path:
    """Three videos of two seconds, 64 x 48 pixels, and two pictures, as the labels name them."""
    for name in "abc":
        write_video(folder / f"{name}.mp4", width=64, height=48, num_frames=20, fps=10)
    for name in "de":
        Image.new("RGB", (40, 30), (90, 120, 60)).save(folder / f"{name}.png")
    return folder


def plan(kind: str, root: Path, *, is_published: bool = False, **changes) -> Plan:
    """Of the whole set, MOS from 0 to 100; of ViDA's roles the pictures of the metadata."""
    assert kind in KINDS
    style = Style(words=LEVELS, is_published=is_published)
    values = {
        "kind": kind,
        "sources": PICTURES if kind in ROLES else SOURCES,
        "media_root": root,
        "levels": LevelRule(range=(1.0, 5.0) if kind in ROLES else (0.0, 100.0)),
        "style": style,
        "cut": Cut(),
    }
    return Plan(**values | changes)
