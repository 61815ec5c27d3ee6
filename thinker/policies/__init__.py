"""Policies: native vision-language models with a motion branch; the one place to import from.

Flow: clips → `PolicyInputs` (prompt ids, pixels) → `MotionBackbone` (embeddings, hidden states).

- `policy.py`: `Policy`, `load_policy`, `outline_policy`, `tiny_policy`
- `registry.py`: `BACKBONES`, one line each; what transformers is told of them
- `internvl3.py`, `qwen2_5_vl.py`: all of one backbone; `backbone.py`, `inputs.py`, `tiny.py`: what
  they share
- `motion/`: SlowFast and the motion encoder
- `encode.py`: clips → encoded prompts; `shared_prompt.py`: one packed row for all completions of a
  prompt
- `convert/`: released layouts → policies; `shards.py`: what weight files hold
- `four_bit.py`, `adapters.py`: a language model in 4 bits; LoRA becomes part of the weights
- `card.py`, `cost.py`, `digest.py`: the model card, what a step costs, a name for the weights
- `releases.py`: the releases of transformers that all of this works with
"""

from thinker.policies import releases as releases  # first: refuses what the others do not know
from thinker.policies.backbone import Backbone
from thinker.policies.inputs import ClipConfig, PolicyInputs, Prompt
from thinker.policies.motion import MotionConfig
from thinker.policies.policy import Policy, load_policy, outline_policy, tiny_policy
from thinker.policies.registry import BACKBONES, backbone_name, plain_config, register
from thinker.policies.tiny import TinySize

__all__ = [
    "BACKBONES",
    "Backbone",
    "ClipConfig",
    "MotionConfig",
    "Policy",
    "PolicyInputs",
    "Prompt",
    "TinySize",
    "backbone_name",
    "load_policy",
    "outline_policy",
    "plain_config",
    "register",
    "tiny_policy",
]
