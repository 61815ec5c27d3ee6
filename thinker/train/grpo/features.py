"""Each clip is encoded once: what is known of the clips of a batch, and who may use it.

A batch's clips are needed several times: for the rollouts, for old and reference log-probabilities
and for the forward with gradient, and all of these again for the perturbed copies. What can be
shared without changing a result:

- Embeddings computed without gradient serve every such pass under the same weights, so rollouts and
  old log-probabilities share them (`embeds`, told apart by a weight version).
- A frozen part (vision tower or SlowFast) gives the same features under every version. It runs once
  a batch, and its features serve the forward with gradient, later iterations on the batch, and the
  reference model, where that has bit-equal weights (`media`).
- A perturbed copy shows pictures of its source in another order. It takes those slots (frames, or
  Qwen2.5-VL's frame pairs) that its source has; only slots with a new pairing of frames are run.
  All dropped frames count as one picture. SlowFast runs again, because a window of other frames is
  another motion. A still has no copy.

Features are kept by the key of the clip (`Clip.key`), from `begin` to the next `begin`.
"""

from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager
from typing import Any

import torch

from thinker.policies.inputs import PolicyInputs, moves
from thinker.train.processes.sharded import gathered, named_tensors
from thinker.utils.tensors import to_device
from thinker.video import Clip
from thinker.video.perturb import FrameMap, perturb_clip, perturbation_maps

TOWER, SLOWFAST = "vision_tower", "slowfast"


class VideoFeatureCache:
    """Features of the clips at hand, each computed once. They may be of any kinds and sizes.

    core: the policy that is trained, without wrappers. reference: another model whose logps are
    asked for, or None. autocast: context of the policy's forward.
    """

    def __init__(
        self,
        inputs: PolicyInputs,
        core,
        reference,
        autocast: Callable[[], AbstractContextManager],
    ):
        self.inputs, self.core, self.autocast = inputs, core, autocast
        self.frozen = {name for name in (TOWER, SLOWFAST) if is_frozen(core, name)}
        self.shared_with_reference = {
            name for name in self.frozen if reference is None or same_part(core, reference, name)
        }
        self.begin()

    def begin(self) -> None:
        """Forget the last batch; call it when a new one comes."""
        self._copies: dict[Hashable, tuple[Hashable, FrameMap]] = {}  # copy → source, frames of it
        self._motion: dict[Hashable, torch.Tensor] = {}
        self._slots: dict[Hashable, torch.Tensor] = {}
        self._embeds: dict[Hashable, torch.Tensor] = {}
        self._version: int | None = None

    def perturbed(self, clip: Clip, kind: str, seed: int) -> Clip:
        """`perturb_clip`, remembering which frames of the source the copy shows."""
        keyframe_map, _ = perturbation_maps(
            kind, seed, len(clip.keyframes_KCHW), len(clip.motion_MCHW)
        )
        copy = perturb_clip(clip, kind, seed)
        self._copies[copy.key] = (clip.key, keyframe_map)
        return copy

    def release(self) -> None:
        """Forget what the next update of the weights makes stale, to free its memory."""
        self._use_version(None)

    @torch.no_grad()
    def embeds(self, clips: list[Clip], version: int) -> list[torch.Tensor]:
        """The policy's placeholder embeddings of each clip, (S, D), under weight version
        `version`."""
        self._use_version(version)
        todo = [clip for clip in unique_clips(clips) if clip.key not in self._embeds]
        if todo:
            with self.autocast():
                encoded = self._encode(todo)
            for clip, embeds in zip(todo, encoded, strict=True):
                self._embeds[clip.key] = embeds
        return [self._embeds[clip.key] for clip in clips]

    def media(self, clips: list[Clip], *, reference: bool) -> dict[str, Any]:
        """`media_inputs` of a forward that encodes what is not known: pixels of parts that are
        trained, features of frozen ones."""
        shared = self.shared_with_reference if reference else self.frozen
        media = self.inputs.layout(clips)
        if not clips:
            return media
        if TOWER in shared:
            media["slot_features"] = [x for keys in self._fill_slots(clips) for x in keys]
        else:
            media |= self.inputs.pixels(clips)
        if self.inputs.motion_config.mode != "none" and media["moving"]:
            if SLOWFAST in shared:
                media["motion_features"] = self._motion_features(clips)
            else:
                media["motion_frames"] = self.inputs.motion_frames(clips)
        return to_device(media, self.core.device)

    def layout(self, clips: list[Clip]) -> dict[str, Any]:
        """What positions follow from; see `PolicyInputs.layout`."""
        return to_device(self.inputs.layout(clips), self.core.device)

    def _use_version(self, version: int | None) -> None:
        """Forget what trained weights gave under another version."""
        if version != self._version:
            self._embeds, self._version = {}, version
            if TOWER not in self.frozen:
                self._slots = {}
            if SLOWFAST not in self.frozen:
                self._motion = {}

    def _encode(self, clips: list[Clip]) -> list[torch.Tensor]:
        backbone, layout = self.core.model, self.inputs.layout(clips)
        slots = [slot for clip in self._fill_slots(clips) for slot in clip]
        if TOWER in self.frozen:
            grids = to_device(self.inputs.grids(clips), self.core.device)
            slots = backbone.project_slots(slots, **grids)
        motion = []
        if backbone.motion is not None and layout["moving"]:
            num_slots = [layout["slots"][i] for i in layout["moving"]]
            motion = backbone.encode_motion(self._motion_features(clips), num_slots)
        return backbone.assemble_media(slots, motion, layout)

    @torch.no_grad()
    def _motion_features(self, clips: list[Clip]) -> list[torch.Tensor]:
        """Of the clips that move, in order."""
        moving = [clip for clip in clips if moves(clip)]
        todo = [clip for clip in unique_clips(moving) if clip.key not in self._motion]
        if todo:
            frames = [some.to(self.core.device) for some in self.inputs.motion_frames(todo)]
            with self.autocast():
                features = self.core.model.motion_features(frames)
            for clip, one in zip(todo, features, strict=True):
                self._motion[clip.key] = one
        return [self._motion[clip.key] for clip in moving]

    @torch.no_grad()
    def _fill_slots(self, clips: list[Clip]) -> list[list[torch.Tensor]]:
        """Slots of each clip: tower features where the tower is frozen, else visual tokens."""
        keys = {clip.key: self._slot_keys(clip) for clip in clips}
        missing: dict[Hashable, torch.Tensor] = {}  # key → its frames
        for clip in unique_clips(clips):
            frames = self._slot_frames(clip)
            for key, pictures in zip(keys[clip.key], frames, strict=True):
                if key not in self._slots:
                    missing.setdefault(key, pictures)
        if missing:
            pixels = to_device(self.inputs.frame_pixels([*missing.values()]), self.core.device)
            backbone = self.core.model
            run = backbone.tower_features if TOWER in self.frozen else backbone.encode_slots
            with self.autocast():
                self._slots |= zip(missing, run(**pixels), strict=True)
        return [[self._slots[key] for key in keys[clip.key]] for clip in clips]

    def _slot_frames(self, clip: Clip) -> list[torch.Tensor]:
        return list(clip.keyframes_KCHW.split(self.inputs.pair))

    def _slot_keys(self, clip: Clip) -> list[Hashable]:
        """What each slot shows: (source clip, frames of it); a slot of dropped frames alone is the
        same in every video of that size."""
        own = list(range(len(clip.keyframes_KCHW)))
        source, shown = self._copies.get(clip.key, (clip.key, own))
        pair, size = self.inputs.pair, tuple(clip.keyframes_KCHW.shape[1:])
        keys: list[Hashable] = []
        for start in range(0, len(shown), pair):
            frames = tuple(shown[start : start + pair])
            blank = all(frame is None for frame in frames)
            keys.append((size, len(frames)) if blank else (source, frames))
        return keys


def unique_clips(clips: list[Clip]) -> list[Clip]:
    """One clip a key, in order."""
    return list({clip.key: clip for clip in clips}.values())


def is_frozen(core, part: str) -> bool:
    """Whether the policy has `part` and trains none of its weights."""
    module = core.parts().get(part)
    return module is not None and not any(p.requires_grad for p in module.parameters())


def same_part(one, other, part: str) -> bool:
    """Whether two policies hold bit-equal weights and statistics in `part`."""
    parts = [model.parts()[part] for model in (one, other)]
    with gathered(*parts):
        first, second = map(named_tensors, parts)
        return first.keys() == second.keys() and all(
            torch.equal(first[name], second[name].to(first[name])) for name in first
        )
