"""A process that shares the check of a data set's videos (tests/video/test_read_ahead.py)."""

import json
import sys
from pathlib import Path


def main(folder: Path) -> None:
    # Here, since decoding processes import the script that was started.
    from accelerate import PartialState

    from thinker.video import ClipSpec, FrameCache, TooManyBadVideosError, check_videos

    rank = PartialState(cpu=True).process_index
    spec = ClipSpec(
        num_keyframes=2, resize="square", keyframe_px=32, min_pixels=0, max_pixels=0, factor=1,
        num_motion_frames=0, motion_px=0,
    )  # fmt: skip
    videos = sorted((folder / "videos").iterdir())
    cache = FrameCache(folder / f"cache{rank}")
    failures = check_videos(videos, spec, cache, max_failed_share=0.5)
    try:
        check_videos(videos, spec, cache, max_failed_share=0.2)
        refused = None
    except TooManyBadVideosError as error:
        refused = len(error.failures)
    result = {
        "failures": {failed.path.name: error.reason for failed, error in failures.items()},
        "read": len(list(cache.folder.iterdir())),
        "refused": refused,
    }
    (folder / f"result{rank}.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
