"""Prompts → what a policy eats: token ids and pixel tensors.

A `Prompt` is a conversation and the clips that stand in it. This is what all backbones share; each
has its own subclass of `PolicyInputs`. The frame sampler and the sizes are part of the saved policy
(`config.clip_config`), so that inference reads videos exactly as training did. Token ids depend on
the turns and on the kinds, numbers and sizes of the slots only.

A video is read as slots, each with its motion tokens where the policy has them. A still is one run
of visual tokens, without motion, however many slots (tiles) the vision tower sees of it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from thinker import prompts
from thinker.config.build import build
from thinker.policies.motion import PER_FRAME_MODES, MotionConfig
from thinker.prompts import MediaText, Turn
from thinker.tasks.level import LevelConfig
from thinker.tasks.stall_text import stall_text
from thinker.utils.names import printable
from thinker.utils.text import is_unicode
from thinker.video import Clip, ClipSpec
from thinker.video.clip import SECOND_SAMPLERS
from thinker.video.medium import Medium
from thinker.video.stalls.intervals import FrameStalls, Stalls

UNKNOWN_LENGTH = 2**30
"""Tokens of a text whose length is not known: more than any context."""

TOKENS_PER_TURN = 8
"""At most: the marks, the role and the line breaks that a chat template puts around a turn."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """What a policy reads of a video."""

    num_keyframes: int = 6
    """K frames over the whole video; the most of them where the sampler goes by seconds."""

    keyframe_px: int = 448
    """Side of the square that frames are stretched to; 0 where the aspect ratio is kept."""

    min_pixels: int = 0
    """Smallest area of a frame where the aspect ratio is kept; 0 for squares."""

    max_pixels: int = 0
    """Largest area of a frame where the aspect ratio is kept; 0 for squares."""

    layout: str = "lines"
    """White space of the prompt around the frames, one of `thinker.prompts.LAYOUTS`."""

    resampler: str = "torch"
    """How frames are resized, one of `thinker.video.clip.RESAMPLERS`."""

    stills: str = "video"
    """How images are read, one of `thinker.video.clip.STILLS`: "image" at their own resolution,
    without motion; "video" as a video of one frame, K times, with motion, which is the way of
    VQAThinker and of every policy that was saved without this key."""

    min_patches: int = 1
    """Fewest tiles of an image, where frames are squares."""

    max_patches: int = 12
    """Most tiles of an image, where frames are squares; the thumbnail comes on top."""

    image_min_pixels: int = 4 * 28**2
    """Smallest area of an image, where the aspect ratio is kept."""

    image_max_pixels: int = 1280 * 28**2
    """Largest area of an image, where the aspect ratio is kept."""

    reader: str = "pyav"
    """Whose pictures frames are, one of `thinker.video.clip.READERS`; "decord" is for checkpoints
    of the published programs, which read through it."""

    deinterlace: str = "none"
    """What makes whole pictures of interlaced frames, one of
    `thinker.video.clip.DEINTERLACERS`."""

    sampler: str = "segments"
    """Which frames of a video keyframes are, one of `thinker.video.clip.SAMPLERS`."""

    max_side_px: int = 0
    """Longest side of a keyframe of a video before it is resized; 0 is no limit."""

    motion_stride: int = 1
    """Every so manieth frame is a motion frame, where the sampler goes by seconds."""

    tiling: str = "aspect"
    """How images are cut into tiles, one of `thinker.video.geometry.TILINGS`."""

    def __post_init__(self):
        if self.layout not in prompts.LAYOUTS:
            raise ValueError(
                f"layout is {self.layout!r}, expected one of {', '.join(prompts.LAYOUTS)}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; `from_dict` reads them back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ClipConfig":
        """Raises ValueError for keys and values that are not those of the fields."""
        return build(cls, values, "clip_config")


STILL_BOUNDS = {
    "square": ("min_patches", "max_patches"),
    "smart": ("image_min_pixels", "image_max_pixels"),
}
"""Fields of a `ClipConfig` that bound the tiles, or the area, of stills, by `PolicyInputs.resize`.
No weight depends on them, so they can be changed of any policy whose stills are images."""


def changed_clip(own: ClipConfig, changes: Mapping[str, Any], resize: str) -> ClipConfig:
    """`own` with other values of some fields.

    resize: `PolicyInputs.resize` of the policy. Raises ValueError for what is no field or no value
    of one, for bounds of stills that would have no effect, and for those that leave no room.

    >>> changed_clip(ClipConfig(stills="image"), {"max_patches": 4}, "square").max_patches
    4
    """
    changed = build(ClipConfig, own.to_dict() | dict(changes), "model.clip")
    if changed.stills != "image":
        used: tuple[str, ...] = ()
        how = "reads stills as videos"
    else:
        used = STILL_BOUNDS[resize]
        how = f"bounds stills by {' and '.join(used)}"
    idle = [name for names in STILL_BOUNDS.values() for name in names if name not in used]
    given = [name for name in idle if name in changes]
    if given:
        raise ValueError(f"model.clip: {', '.join(given)} has no effect: this policy {how}")
    if used and not 1 <= getattr(changed, used[0]) <= getattr(changed, used[1]):
        raise ValueError(
            f"model.clip: {used[0]} is {getattr(changed, used[0])} and {used[1]} "
            f"{getattr(changed, used[1])}, expected 1 or more, the second at least the first"
        )
    return changed


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation and the media that stand in it."""

    clips: tuple[Clip, ...] = ()
    """The media, in the order of their places."""

    turns: tuple[Turn, ...] = ()
    """They end with the user's; none stands for the policy's own scoring question."""


def distinct_clips(prompts: Sequence[Prompt]) -> tuple[list[Clip], list[tuple[int, ...]]]:
    """The clips of all prompts, one a key, in order; and which of them each prompt shows."""
    places: dict[Any, int] = {}
    clips: list[Clip] = []
    for prompt in prompts:
        for clip in prompt.clips:
            if clip.key not in places:
                places[clip.key] = len(clips)
                clips.append(clip)
    return clips, [tuple(places[clip.key] for clip in prompt.clips) for prompt in prompts]


def moves(clip: Clip) -> bool:
    """Whether the motion branch sees the clip: a still has no motion."""
    return clip.kind == prompts.VIDEO


@dataclass(frozen=True)
class _Shape:
    """What the text of a clip depends on; part of the key of cached prompts."""

    kind: str
    """`Clip.kind`."""
    slot_tokens: tuple[int, ...]
    """Visual tokens of each slot."""
    num_motion: int = 0
    """Motion tokens behind all slots."""
    stalls: FrameStalls | None = None
    """`Clip.stalls`."""


def _said_of_stalls(stalls: FrameStalls) -> str:
    return stall_text(stalls.runs, stalls.num_frames, stalls.form)


def placeholder_ids(config: Any) -> list[int]:
    """Token ids that stand for visual or motion embeddings in a prompt."""
    ids = [config.image_token_id, getattr(config, "video_token_id", None)]
    return [i for i in ids if i is not None]


class PolicyInputs:
    """Prompt and pixels of clips for one policy; the base of each backbone's own inputs class."""

    resize = "square"
    """How keyframes get their size, as `ClipSpec.resize`."""

    size_factor = 1
    """Sides of a keyframe are multiples of it, where the aspect ratio is kept."""

    pair = 1
    """Keyframes that one slot shows."""

    def __init__(self, processor, config):
        self.processor = processor
        self.tokenizer = processor.tokenizer
        self.clip_config = ClipConfig.from_dict(config.clip_config)
        self.motion_config = MotionConfig.from_dict(config.motion_config)
        by_seconds = self.clip_config.sampler in SECOND_SAMPLERS
        if by_seconds != self.motion_config.per_frame:
            raise ValueError(
                f"clip.sampler is {self.clip_config.sampler!r} and motion.mode "
                f"{self.motion_config.mode!r}; {' and '.join(SECOND_SAMPLERS)} belong to "
                f"{' and '.join(PER_FRAME_MODES)}"
            )
        self.question = config.scoring_question or prompts.SCORING
        self.levels = LevelConfig.from_dict(getattr(config, "level_config", None) or {})
        self._placeholder_ids = placeholder_ids(config)
        self.image_token = self.tokenizer.convert_ids_to_tokens(config.image_token_id)
        self._prompt_ids = lru_cache(maxsize=256)(self._build_prompt_ids)

    @property
    def clip_spec(self) -> ClipSpec:
        """What the clip reader has to deliver for this policy."""
        motion = self.motion_config
        return ClipSpec(
            num_keyframes=self.clip_config.num_keyframes,
            resize=self.resize,
            keyframe_px=self.clip_config.keyframe_px,
            min_pixels=self.clip_config.min_pixels,
            max_pixels=self.clip_config.max_pixels,
            factor=self.size_factor,
            num_motion_frames=motion.num_motion_frames if motion.has_own_frames else 0,
            motion_px=motion.motion_px,
            resampler=self.clip_config.resampler,
            stills=self.clip_config.stills,
            min_patches=self.clip_config.min_patches,
            max_patches=self.clip_config.max_patches,
            image_min_pixels=self.clip_config.image_min_pixels,
            image_max_pixels=self.clip_config.image_max_pixels,
            reader=self.clip_config.reader,
            deinterlace=self.clip_config.deinterlace,
            sampler=self.clip_config.sampler,
            max_side_px=self.clip_config.max_side_px,
            motion_stride=self.clip_config.motion_stride,
            tiling=self.clip_config.tiling,
        )

    def slot_tokens(self, clip: Clip) -> tuple[int, ...]:
        """Visual tokens of each slot of the clip."""
        raise NotImplementedError

    def max_slot_tokens(self) -> int:
        """Visual tokens of the largest slot that a video can have."""
        raise NotImplementedError

    def max_image_tokens(self) -> int:
        """Visual tokens of the largest still that is read at its own resolution."""
        raise NotImplementedError

    def max_slots(self) -> tuple[int, ...]:
        """Visual tokens of each slot of the longest video."""
        count = -(-self.clip_config.num_keyframes // self.pair)
        return (self.max_slot_tokens(),) * count

    def max_prompt_tokens(
        self, kinds: Sequence[str] = (prompts.VIDEO,), turns: tuple[Turn, ...] = ()
    ) -> int:
        """Upper bound on the length of a prompt with media of these kinds (`Medium.kind`); of one
        video and the policy's own question unless told otherwise."""
        return len(self.longest_prompt_ids(kinds, turns))

    def longest_prompt_ids(
        self, kinds: Sequence[str] = (prompts.VIDEO,), turns: tuple[Turn, ...] = ()
    ) -> list[int]:
        """As `prompt_ids`, for media of these kinds and of the largest size."""
        video = still = _Shape(
            prompts.VIDEO, self.max_slots(), self._num_behind(self.motion_config.num_motion_frames)
        )
        if self.clip_config.stills == "image":  # else they are read as videos
            still = _Shape(prompts.IMAGE, (self.max_image_tokens(),))
        shapes = tuple(video if kind == prompts.VIDEO else still for kind in kinds)
        return list(self._prompt_ids(shapes, turns))

    def max_tokens_of(self, asked: Iterable[tuple[tuple[str, ...], tuple[Turn, ...]]]) -> int:
        """Upper bound on the length of any of several prompts, given the kinds of their media and
        their turns."""
        longest: dict[tuple[str, ...], tuple[int, tuple[Turn, ...]]] = {}
        for kinds, turns in dict.fromkeys(asked):
            text = "\n".join(turn.text for turn in turns)
            # Special tokens around the turns count for more than what merges across them.
            length = len(self.tokenizer(text)["input_ids"]) + len(turns) * TOKENS_PER_TURN
            if kinds not in longest or length > longest[kinds][0]:
                longest[kinds] = length, turns
        return max(
            self.max_prompt_tokens(kinds, turns) + TOKENS_PER_TURN * (len(turns) + 1)
            for kinds, (_, turns) in longest.items()
        )

    def max_said_tokens(self, shown: Iterable[Sequence[Medium]]) -> int:
        """Upper bound on what is said of the stalls of media beyond `max_tokens_of`, given the
        media of each prompt. `UNKNOWN_LENGTH` for a digit a frame of a video whose frames nobody
        has counted yet."""
        given = {tuple(m.stalls for m in media if m.stalls is not None) for media in shown}
        return max((sum(map(self._said_tokens, stalls)) for stalls in given), default=0)

    def said_tokens(self, clips: Iterable[Clip]) -> int:
        """As `max_said_tokens`, of clips that were read."""
        said = [_said_of_stalls(clip.stalls) for clip in clips if clip.stalls is not None]
        return sum(len(self.tokenizer(text)["input_ids"]) + TOKENS_PER_TURN for text in said)

    def _said_tokens(self, stalls: Stalls) -> int:
        if stalls.form == "digits" and stalls.num_frames is None:
            return UNKNOWN_LENGTH
        count = len(stalls.intervals)
        runs = [(2 * number, 2 * number + 1) for number in range(count)]
        text = stall_text(runs, max(stalls.num_frames or 0, 2 * count, 1), stalls.form)
        # Numbers and shares of a real video are longer than these, by seven digits at most.
        return len(self.tokenizer(text)["input_ids"]) + 8 * (count + 8)

    def slot_text(self, num_visual: int, num_motion: int) -> str:
        """Placeholder text of one slot."""
        raise NotImplementedError

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Token ids of the chat, placeholders expanded, ready for a completion.

        Raises ValueError where the turns do not end with the user's, where they mark places for
        another number of media, and where they hold a placeholder token of the policy itself.
        """
        shapes = tuple(
            _Shape(
                clip.kind,
                self.slot_tokens(clip),
                self._num_behind(len(clip.motion_MCHW)) if moves(clip) else 0,
                clip.stalls,
            )
            for clip in prompt.clips
        )
        return list(self._prompt_ids(shapes, prompt.turns))

    def _num_behind(self, num_motion_frames: int) -> int:
        """Motion tokens behind all slots of a video with so many motion frames."""
        if self.motion_config.per_frame:
            return num_motion_frames
        return int(self.motion_config.stands_behind)

    def check_turns(self, turns: Sequence[Turn]) -> None:
        """Raises ValueError for what cannot be asked: roles out of order, and a text that holds a
        token by which this policy marks turns or media, which it would take for one."""
        prompts.check_turns(turns, last="user")
        for turn in turns:
            if not is_unicode(turn.text):
                raise ValueError(
                    f"a turn holds what is no text: {printable(turn.text):.80}; write it in UTF-8"
                )
            held = [token for token in self._reserved_tokens if token in prompts.words(turn)]
            if held:
                raise ValueError(
                    f"a turn holds {held[0]!r}, a token by which this policy marks turns or media; "
                    "write <image> or <video> where a medium stands, and other words elsewhere"
                )

    @cached_property
    def _reserved_tokens(self) -> tuple[str, ...]:
        """The special tokens of a slot and of the chat template, and those for other media."""
        message = {"role": "user", "content": [{"type": "text", "text": ""}]}
        chat = self.processor.apply_chat_template([message], add_generation_prompt=True)
        tokenizer = self.tokenizer
        ids = tokenizer(chat + self.slot_text(1, 0), add_special_tokens=False)["input_ids"]
        ids += [tokenizer.pad_token_id, *self._placeholder_ids]
        known = tokenizer.added_tokens_decoder
        found = [known[i].content for i in dict.fromkeys(ids) if i in known and known[i].special]
        return (self.image_token, *found)

    def _build_prompt_ids(
        self, shapes: tuple[_Shape, ...], turns: tuple[Turn, ...]
    ) -> tuple[int, ...]:
        turns = turns or prompts.ask(self.question)
        self.check_turns(turns)
        texts = [self._media_text(shape) for shape in shapes]
        messages = [
            {"role": turn.role, "content": [{"type": "text", "text": turn.text}]}
            for turn in prompts.place_media(turns, texts, self.clip_config.layout)
        ]
        chat = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return tuple(self.tokenizer(chat, add_special_tokens=False)["input_ids"])

    def _media_text(self, shape: _Shape) -> MediaText:
        if shape.kind == prompts.IMAGE:
            return MediaText(kind=shape.kind, slots=(self.slot_text(sum(shape.slot_tokens), 0),))
        mode = self.motion_config.mode
        counts = list(shape.slot_tokens)
        if self.motion_config.twice:  # once behind the visual tokens, once in a slot of their own
            counts[-1] += shape.num_motion
        per_slot = self.motion_config.tokens_per_frame * self.pair if mode == "interleaved" else 0
        return MediaText(
            kind=shape.kind,
            slots=tuple(self.slot_text(tokens, per_slot) for tokens in counts),
            motion_slot=self.slot_text(shape.num_motion, 0) if shape.num_motion else None,
            num_motion=shape.num_motion,
            said=None if shape.stalls is None else _said_of_stalls(shape.stalls),
        )

    def media_inputs(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Arguments of the backbone's `encode_media` for these clips, of any kinds and sizes, in
        order."""
        inputs = self.layout(clips)
        if clips:
            inputs |= self.pixels(clips)
        if self.motion_config.mode != "none":
            inputs["motion_frames"] = self.motion_frames(clips)
        return inputs

    def layout(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """The arguments of `encode_media` that follow from the kinds and sizes of the clips, for
        callers that do not need the pixels: `slots`, the number of slots of each clip; `moving`,
        the numbers of the clips that move; and what the backbone adds (`grids`)."""
        return {
            "slots": [len(self.slot_tokens(clip)) for clip in clips],
            "moving": [i for i, clip in enumerate(clips) if moves(clip)],
            **self.grids(clips),
        }

    def for_every_part(self, clips: Sequence[Clip]) -> list[Clip]:
        """The clips and, where none of them moves, a small grey video: all of them together pass
        every part of the policy. A process of a distributed run whose rows show no video would
        otherwise leave the others waiting for its part of a gradient or of sharded weights."""
        if any(moves(clip) for clip in clips):
            return list(clips)
        spec = self.clip_spec
        motion = self.motion_config
        count = spec.num_keyframes if motion.mode == "pooled" else self.pair
        side = spec.keyframe_px if self.resize == "square" else self.size_factor
        dense = 1 if motion.per_frame else spec.num_motion_frames // spec.num_keyframes * count
        grey = Clip(
            path=Path("grey"),
            keyframes_KCHW=torch.full((count, 3, side, side), 128, dtype=torch.uint8),
            motion_MCHW=torch.full(
                (dense, 3, spec.motion_px, spec.motion_px), 128, dtype=torch.uint8
            ),
            keyframe_seconds=torch.zeros(count, dtype=torch.float64),
            motion_seconds=torch.zeros(dense, dtype=torch.float64),
            keyframe_indices=(0,) * count,
            motion_indices=(0,) * dense,
            num_frames=1,
            fps=0.0,
            height=side,
            width=side,
            variant="grey",
        )
        return [*clips, grey]

    def motion_frames(self, clips: Sequence[Clip]) -> list[torch.Tensor]:
        """What the motion branch sees of the clips that move, uint8: dense frames (V, M, 3, px,
        px), or in mode "pooled" keyframes (V, K, 3, H, W), one tensor for each run of clips of one
        number and size of frames."""
        dense = self.motion_config.has_own_frames
        frames = [c.motion_MCHW if dense else c.keyframes_KCHW for c in clips if moves(c)]
        return [torch.stack(list(run)) for _, run in groupby(frames, lambda x: x.shape)]

    def grids(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """What the backbone's own part of `layout` is; nothing where all slots are alike."""
        return {}

    def pixels(self, clips: Sequence[Clip]) -> dict[str, Any]:
        """Pixel arguments of `encode_media` for the keyframes of clips."""
        return self.frame_pixels([clip.keyframes_KCHW for clip in clips])

    def frame_pixels(self, videos: list[torch.Tensor]) -> dict[str, Any]:
        """The same for any runs of frames (T, 3, H, W), uint8, each of them whole slots."""
        raise NotImplementedError
