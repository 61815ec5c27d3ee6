"""Qwen3-VL for an engine without a vision tower.

vLLM 0.31 runs DeepStack only where the tower is there, too: an engine that is fed with embeddings
alone would take them in the language model's own width, without what is added behind its first
layers (`thinker.policies.qwen_vl.qwen3_vl`). This class puts back what vLLM's own makes of a tower.

It is imported by vLLM, under the name that `register_models` (engine.py) gives it.
"""

from typing import Any

import torch
from vllm.model_executor.models.qwen3_vl import Qwen3VLForConditionalGeneration


class TowerlessQwen3VL(Qwen3VLForConditionalGeneration):
    """vLLM's Qwen3-VL, whose image items are [ first | added behind layer 0 | … ], as with a
    tower."""

    def __init__(self, *, vllm_config: Any, prefix: str = "model"):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        num_levels = len(self.config.vision_config.deepstack_visual_indexes)
        shape = (
            vllm_config.scheduler_config.max_num_batched_tokens,
            self.config.text_config.hidden_size,
        )
        self.use_deepstack = True
        self.deepstack_num_level = num_levels
        self.multiscale_dim = self.visual_dim * num_levels
        self.deepstack_input_embeds = [torch.zeros(shape) for _ in range(num_levels)]
        self.deepstack_input_embeds_num_tokens = 0
