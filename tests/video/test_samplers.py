"""Named frame samplers, the longest side, and media with a number of keyframes of their own."""

from dataclasses import replace

import pytest

from tests.helpers.policy_factory import BACKBONES, SIZE, small_policy
from tests.helpers.video_factory import read_frame_id, write_video
from thinker.eval.bench.frames import check_prompt, frame_counts, use_frames
from thinker.policies.inputs import Prompt
from thinker.video import ClipSpec, keyframe_indices, motion_indices, read_clip
from thinker.video.clip import SAMPLERS
from thinker.video.medium import medium
from thinker.video.read import clip_from_frames
from thinker.video.sources.numbers import each_second

SPEC = ClipSpec(
    num_keyframes=16, resize="square", keyframe_px=64, min_pixels=0, max_pixels=0, factor=1,
    num_motion_frames=64, motion_px=32, sampler="steps",
)  # fmt: skip


@pytest.mark.parametrize("num_frames", [1, 9, 15, 16, 17, 31, 250, 301])
@pytest.mark.parametrize("count", [8, 16])
def test_the_published_samplers(num_frames, count):
    """Both formulas written out anew, with whole numbers where the program has floats."""
    steps = keyframe_indices(num_frames, count, "steps")
    assert steps == [i * (num_frames // count) for i in range(count)]
    inner = keyframe_indices(num_frames, count, "inner_steps")
    exact = [(i * num_frames) // (count + 1) for i in range(1, count + 1)]
    # int(i * (n / 17)) may round a whole number down: as published, at most one frame away.
    assert all(e - g in (0, 1) for g, e in zip(inner, exact, strict=True))
    assert max(steps + inner) < num_frames


def test_the_default_sampler_is_that_of_vqathinker():
    assert SPEC.of_medium(None) is SPEC
    assert keyframe_indices(100, 6) == keyframe_indices(100, 6, SAMPLERS[0])
    with pytest.raises(ValueError, match="sampler must be one of segments, steps, inner_steps"):
        replace(SPEC, sampler="random")


@pytest.mark.parametrize(
    ("num_frames", "fps", "sampler", "stride", "keyframes", "num_motion"),
    [
        # round(29.97) = 30; 103 frames are cut to 100
        (103, 29.97, "seconds", 1, [0, 30, 60, 90], 100),
        (8, 2.5, "seconds", 1, [0, 2, 4, 6], 8),  # a half goes to the even 2
        (12, 3.5, "seconds", 1, [0, 4, 8], 12),  # and here to 4
        (7, 0.5, "seconds", 1, [], 4),
        (3, 25.0, "seconds", 1, [0], 0),
        (5, 25.0, "seconds", 1, [0], 4),  # shorter than a second
        # int(103 // 29.97) = 3 seconds: round(0), round(29.97), round(59.94)
        (103, 29.97, "rounded_seconds", 1, [0, 30, 60], 100),
        (103, 29.97, "rounded_seconds", 4, [0, 60], 24),  # 30 is no multiple of 4; 96 of 103
        (100, 24.0, "rounded_seconds", 8, [0, 24, 48, 72], 12),
        (60, 12.5, "rounded_seconds", 1, [0, 12, 25, 38], 60),  # 12.5 → 12, 37.5 → 38
        (33, 16.0, "rounded_seconds", 1, [0, 16], 32),
        (34, 16.0, "rounded_seconds", 8, [0, 16], 4),  # of the first 32 frames
        (12, 25.0, "rounded_seconds", 1, [0], 12),
        (12, 0.0, "rounded_seconds", 1, [0], 12),  # a file without a rate
    ],
)
def test_a_keyframe_a_second(num_frames, fps, sampler, stride, keyframes, num_motion):
    got, motion = each_second(num_frames, fps, sampler, stride)
    assert got == keyframes
    assert motion == [stride * i for i in range(num_motion)]


def test_what_does_not_go_by_seconds():
    by_seconds = replace(SPEC, sampler="seconds", num_keyframes=3, num_motion_frames=64)
    assert by_seconds.of_medium(3) is by_seconds
    with pytest.raises(ValueError, match="their number follows from the length of the video"):
        by_seconds.of_medium(4)
    with pytest.raises(ValueError, match="motion_stride is 8 with sampler 'steps', expected 1"):
        replace(SPEC, motion_stride=8)


def test_a_medium_says_how_many_keyframes_it_has(tmp_path):
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    whole = read_clip(path, SPEC)
    half = read_clip(replace(medium(path), num_keyframes=8), SPEC)
    assert [read_frame_id(frame) for frame in whole.keyframes_KCHW] == [2 * i for i in range(16)]
    assert [read_frame_id(frame) for frame in half.keyframes_KCHW] == [5 * i for i in range(8)]
    assert len(half.motion_MCHW) == 32  # windows of four, as before
    assert half.motion_indices == tuple(motion_indices(40, SPEC.of_medium(8)))
    assert half.motion_indices[4:8] == (3, 4, 5, 6)
    with pytest.raises(ValueError, match="expected at least 1, of a video"):
        replace(medium(path), num_keyframes=0)


def test_the_longest_side_is_kept_before_the_policy_resizes(tmp_path):
    path = write_video(tmp_path / "wide.mp4", num_frames=4, width=256, height=64)
    spec = replace(
        SPEC, resize="smart", min_pixels=1, max_pixels=10**6, factor=4, num_keyframes=2,
        num_motion_frames=0, max_side_px=130,
    )  # fmt: skip
    assert spec.bounded(64, 256) == (32, 130) and spec.bounded(64, 100) == (64, 100)
    clip = read_clip(path, spec)
    assert clip.keyframes_KCHW.shape[2:] == (32, 128)  # 32 x 130 to multiples of 4
    assert (clip.height, clip.width) == (64, 256)
    assert read_frame_id(clip.keyframes_KCHW[1]) == 2
    # The square of a policy is stretched from the shrunk picture: less detail, the same size.
    squared = replace(spec, resize="square", keyframe_px=64, factor=1)
    small, full = read_clip(path, squared), read_clip(path, replace(squared, max_side_px=0))
    assert small.keyframes_KCHW.shape == full.keyframes_KCHW.shape
    assert not small.keyframes_KCHW.equal(full.keyframes_KCHW)
    frames = small.keyframes_KCHW.new_full((3, 3, 64, 256), 90)
    assert clip_from_frames(frames, spec).keyframes_KCHW.shape[2:] == (32, 128)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_policy_reads_by_a_published_sampler(tmp_path, backbone):
    """Sixteen frames of one video, eight of each of a pair, encoded by a policy trained for two."""
    path = write_video(tmp_path / "a.mp4", num_frames=40)
    policy = small_policy(backbone, size=replace(SIZE, num_keyframes=16, num_motion_frames=64))
    own = frame_counts(policy, "own")
    assert (own.single, own.pair, own.motion_per_keyframe) == (16, 16, 4)
    use_frames(policy, "official")
    spec = policy.inputs.clip_spec
    assert (spec.sampler, spec.num_keyframes, spec.max_side_px) == ("steps", 16, 512)
    counts = frame_counts(policy, "official")
    assert (counts.single, counts.pair) == (16, 8)
    pair = [read_clip(replace(medium(path), num_keyframes=8), spec) for _ in range(2)]
    one, both = Prompt(clips=(read_clip(path, spec),)), Prompt(clips=tuple(pair))
    num_slots = 16 // policy.inputs.pair
    for prompt, expected in ((one, [num_slots]), (both, [num_slots // 2] * 2)):
        media = policy.inputs.media_inputs(prompt.clips)
        assert media["slots"] == expected
        embeds = policy.model.model.encode_media(**media)
        image_id = policy.model.config.image_token_id
        num_places = policy.inputs.prompt_ids(prompt).count(image_id)
        assert sum(len(one) for one in embeds) == num_places


def test_a_policy_that_cannot_read_as_many_frames_says_so():
    policy = small_policy("internvl3")  # two keyframes, positions for no more
    before = policy.inputs.clip_spec
    with pytest.raises(ValueError, match=r"cannot read the frames 'official'.*the frames 'own'"):
        use_frames(policy, "official")
    assert policy.inputs.clip_spec == before


def test_a_policy_that_reads_by_seconds_keeps_its_own_frames():
    policy = small_policy("vital")
    with pytest.raises(ValueError, match="reads a keyframe a second; use the frames 'own'"):
        use_frames(policy, "official")
    check_prompt(policy, "own")
    with pytest.raises(ValueError, match="'vqa2' tells how many frames a video has"):
        check_prompt(policy, "vqa2")
