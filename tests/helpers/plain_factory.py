"""Small random checkpoints as transformers itself saves them, without a motion branch."""

from pathlib import Path

import torch
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from tests.helpers.policy_factory import SIZE, keeps_aspect, small_policy
from thinker.policies.motion import MotionConfig, SlowFastConfig

STOCK = {
    "internvl3": (InternVLConfig, InternVLForConditionalGeneration),
    "internvl3_5": (InternVLConfig, InternVLForConditionalGeneration),
    "llava_onevision": (LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration),
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLForConditionalGeneration),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLForConditionalGeneration),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration),
}
MOTION = MotionConfig(
    slowfast=SlowFastConfig(depths=(1, 1, 1, 1), slow_width=SIZE.slow_width, beta_inv=2),
    num_keyframes=SIZE.num_keyframes,
    num_motion_frames=SIZE.num_motion_frames,
    motion_px=SIZE.motion_px,
    tokens_per_frame=SIZE.tokens_per_frame,
)
SQUARES = {"num_keyframes": SIZE.num_keyframes, "keyframe_px": SIZE.frame_px}
AREAS = {"num_keyframes": SIZE.num_keyframes, "min_pixels": 400, "max_pixels": 1600}
CLIP = {name: AREAS if keeps_aspect(name) else SQUARES for name in STOCK}


def plain_checkpoint(backbone: str, folder: Path, *, tied: bool = False, **saving):
    """Save a stock model with its processor; returns the model."""
    policy = small_policy(backbone)
    values = policy.model.config.to_dict()
    for key in ("motion_config", "clip_config", "model_type", "architectures"):
        values.pop(key)
    values["tie_word_embeddings"] = values["text_config"]["tie_word_embeddings"] = tied
    config_class, model_class = STOCK[backbone]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = model_class(config_class(**values))
        for parameter in model.parameters():
            parameter.data.normal_(0, 0.3)
    model.generation_config.temperature = 0.7  # must survive loading and saving
    model.generation_config.do_sample = True
    model.generation_config.eos_token_id = policy.tokenizer.eos_token_id
    model.save_pretrained(folder, **saving)
    policy.processor.save_pretrained(folder)
    return model
