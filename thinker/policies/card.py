"""The model card (README.md) that every saved policy carries, filled from its configuration."""

from torch import nn

from thinker import prompts
from thinker.policies.motion import MotionConfig
from thinker.video.clip import SECOND_SAMPLERS

TEMPLATE = """---
library_name: thinker
pipeline_tag: video-text-to-text
tags:
- video-quality-assessment
- vqa
---

# Video quality policy on {backbone}

A vision-language model with a motion branch that rates the quality of a video from 1 (very poor) to
5 (excellent), with its reasoning. {note}

| part | parameters |
|---|---|
{parts}

## What it sees
{clip}

{motion}

## What it is asked
> {question}

The answer is the number in `<answer>…</answer>`; a completion without one has no score.

## How to score
```bash
thinker score --model <this folder> --video video.mp4
```
```python
from thinker import QualityScorer

print(QualityScorer.from_pretrained("<this folder>").score("video.mp4").score)
```
The weights are safetensors under transformers' names, no remote code is involved: after
`import thinker.policies`, `AutoModelForImageTextToText.from_pretrained` loads them too.
"""


def model_card(model, *, note: str = "") -> str:
    """Text of README.md for a policy's model, which may lie on the meta device: its weights are not
    read."""
    config = model.config
    return TEMPLATE.format(
        backbone=config.model_type.removeprefix("thinker_"),
        note=note,
        parts="\n".join(
            f"| {part} | {count:,} |" for part, count in count_parameters(model).items()
        ),
        clip=_clip_text(config.clip_config),
        motion=_motion_text(MotionConfig.from_dict(config.motion_config)),
        question=config.scoring_question or prompts.SCORING,
    ).replace("  \n", "\n")


def count_parameters(model) -> dict[str, int]:
    """Parameters by part, each counted once, and their total; a tied LM head is part of the
    language model."""
    parts = nn.ModuleDict({**model.parts(), "lm_head": model.lm_head})
    counts = dict.fromkeys(parts, 0)
    # Named after the first part that holds it, each parameter once.
    for name, parameter in parts.named_parameters(remove_duplicate=True):
        counts[name.partition(".")[0]] += parameter.numel()
    counts["total"] = sum(p.numel() for p in model.parameters())
    return counts


def _clip_text(clip: dict) -> str:
    size = (
        f"stretched to {clip['keyframe_px']} x {clip['keyframe_px']} px"
        if clip["keyframe_px"]
        else f"resized to {clip['min_pixels']} to {clip['max_pixels']} pixels, aspect ratio kept"
    )
    count = clip["num_keyframes"]
    if clip.get("sampler") in SECOND_SAMPLERS:
        return f"At most {count} keyframes, one for each second ({clip['sampler']}), {size}."
    return f"{count} keyframes over the whole video, {size}."


def _motion_text(motion: MotionConfig) -> str:
    if motion.mode == "none":
        return "There is no motion branch."
    if motion.mode == "pooled":
        return (
            "Motion: one token a video, both SlowFast pathways on the keyframes (the rules of the "
            f"released VQAThinker; slow pathway 1 in {motion.slow_divisor} frames, features "
            f"repeated {motion.pool_repeats} times)."
        )
    if motion.per_frame:
        return (
            f"Motion: one token for each of at most {motion.num_motion_frames} dense frames of "
            f"{motion.motion_px} x {motion.motion_px} px, SlowFast's fast pathway (mode "
            f"{motion.mode})."
        )
    tokens = motion.tokens_per_frame
    return (
        f"Motion: {motion.num_motion_frames} dense frames of {motion.motion_px} x "
        f"{motion.motion_px} px in windows around the keyframes, SlowFast's fast pathway, "
        f"{tokens} token{'s' if tokens > 1 else ''} a keyframe."
    )
