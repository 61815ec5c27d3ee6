"""The names in a released VQAThinker or VITAL checkpoint ↔ transformers' names of the same things.

`our_names` and `their_name` translate tensors, `TEXT_KEYS` and `VISION_KEYS` what config.json says
of the language model and of the vision tower.
"""

import re

from thinker.policies.convert.writing import rename

SLOWFAST = "slowfast_model.feature_extraction."
# Their names → ours; {} stands for the same text on both sides.
VISION_LAYER = {
    "attn.qkv.{}": "attention.qkv.{}",
    "attn.proj.{}": "attention.projection_layer.{}",
    "attn.q_norm.{}": "attention.q_norm.{}",
    "attn.k_norm.{}": "attention.k_norm.{}",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
    "norm1.{}": "layernorm_before.{}",
    "norm2.{}": "layernorm_after.{}",
    "mlp.{}": "mlp.{}",
}
VISION_EMBEDDINGS = {
    "class_embedding": "cls_token",
    "position_embedding": "position_embeddings",
    "patch_embedding.{}": "patch_embeddings.projection.{}",
}
RENAMES = (
    *(
        (
            f"vision_model.encoder.layers.{{}}.{theirs}",
            f"model.vision_tower.encoder.layer.{{}}.{ours}",
        )
        for theirs, ours in VISION_LAYER.items()
    ),
    *(
        (f"vision_model.embeddings.{theirs}", f"model.vision_tower.embeddings.{ours}")
        for theirs, ours in VISION_EMBEDDINGS.items()
    ),
    ("mlp1.0.{}", "model.multi_modal_projector.layer_norm.{}"),
    ("mlp1.1.{}", "model.multi_modal_projector.linear_1.{}"),
    ("mlp1.3.{}", "model.multi_modal_projector.linear_2.{}"),
    (SLOWFAST + "{}", "model.motion.slowfast.blocks.{}"),
    ("motion_mlp.{}", "model.motion.projector.{}"),
    ("language_model.model.{}", "model.language_model.{}"),
    ("language_model.lm_head.{}", "lm_head.{}"),
)
POSITION_EMBEDDING = "vision_model.embeddings.position_embedding"
QKV = re.compile(r"(.*\.attention)\.(?:qkv|([qkv])_proj)(\..*)")

# Keys of their `llm_config` that transformers' Qwen2 has under the same names.
TEXT_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta",
    "rope_scaling", "use_sliding_window", "sliding_window", "max_window_layers",
    "attention_dropout", "initializer_range",
)  # fmt: skip
# Keys of their `vision_config` → ours.
VISION_KEYS = {
    "hidden_size": "hidden_size",
    "num_hidden_layers": "num_hidden_layers",
    "num_attention_heads": "num_attention_heads",
    "intermediate_size": "intermediate_size",
    "patch_size": "patch_size",
    "hidden_act": "hidden_act",
    "norm_type": "norm_type",
    "layer_norm_eps": "layer_norm_eps",
    "attention_dropout": "attention_dropout",
    "dropout": "projection_dropout",
    "qkv_bias": "attention_bias",
    "qk_normalization": "use_qk_norm",
    "initializer_range": "initializer_range",
}


def our_names(key: str) -> list[str]:
    """Our names of what their tensor `key` holds: one, three for a fused qkv, none if unknown.

    Example: "vision_model.encoder.layers.3.ls1" is "model.vision_tower.encoder.layer.3.lambda_1".
    """
    name = rename(key, RENAMES)
    fused = QKV.fullmatch(name) if name else None
    if name is None or fused is None:
        return [name] if name else []
    return [f"{fused[1]}.{part}_proj{fused[3]}" for part in "qkv"]


def their_name(name: str) -> str:
    """The name of their tensor that holds ours: the inverse of `our_names`, for messages."""
    fused = QKV.fullmatch(name)
    if fused:
        name = f"{fused[1]}.qkv{fused[3]}"
    return rename(name, tuple((ours, theirs) for theirs, ours in RENAMES)) or name
