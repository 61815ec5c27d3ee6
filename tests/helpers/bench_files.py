"""The committed miniature benchmarks and the media that they name."""

from pathlib import Path

from PIL import Image

from tests.helpers.places import REPO
from tests.helpers.video_factory import write_video
from thinker.eval.bench.asking import FrameCounts
from thinker.eval.bench.load import BenchData, Protocol, load_bench

FIXTURES = REPO / "tests" / "fixtures" / "bench"
VIDEO_FILE = FIXTURES / "q_bench_video_dev.json"
SIXTEEN = FrameCounts(single=16, pair=8, motion_per_keyframe=4)


def write_media(folder: Path) -> Path:
    """All but gone.mp4, which is missing."""
    for number, name in enumerate(("sharp", "my_cat_sleeps", "dark")):
        write_video(folder / f"{name}.mp4", num_frames=30 + 20 * number)
    for name in ("plain", "other"):
        Image.new("RGB", (64, 48), (90, 90, 200)).save(folder / f"{name}.png")
    return folder


def video_bench(root: Path, counts: FrameCounts = SIXTEEN, **protocol: object) -> BenchData:
    """The miniature Q-Bench-Video."""
    chosen = Protocol(bench="q-bench-video", **protocol)
    return load_bench(chosen, [VIDEO_FILE], root, counts)
