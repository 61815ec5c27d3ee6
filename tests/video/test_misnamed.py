"""A picture under the name of a video: the reason says what it is."""

import pytest
from PIL import Image

from tests.helpers.video_factory import frame_pattern
from thinker.video import ClipSpec, VideoError, read_clip

SPEC = ClipSpec(
    num_keyframes=2, resize="square", keyframe_px=32, min_pixels=0, max_pixels=0, factor=1,
    num_motion_frames=0, motion_px=32,
)  # fmt: skip


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_a_picture_that_is_named_as_a_video(tmp_path, form):
    path = tmp_path / "a.mp4"
    Image.fromarray(frame_pattern(5, 64, 48)).save(path, format=form)
    with pytest.raises(VideoError, match=f"not_a_video: it is a {form} picture; rename it to"):
        read_clip(path, SPEC)
