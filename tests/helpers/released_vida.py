"""A small random checkpoint in the layout of the released Qwen2-VL-ViDA: names, configuration and
processor as transformers before 4.52 saves a Qwen2-VL."""

import json
from pathlib import Path

import torch

from tests.helpers.policy_factory import SIZE
from tests.helpers.released_factory import write_shards
from thinker.policies import tiny_policy

WIDTH, MLP, LAYERS, HEADS, KV_HEADS = 32, 48, 2, 2, 2
VISION_WIDTH, VISION_LAYERS, VISION_HEADS, PATCH = 16, 2, 2, 14
HEAD = WIDTH // HEADS
SECTIONS = [2, 3, 3]  # of half a head, as 16 : 24 : 24 of the real 64

LEVEL_WORDS = "The quality of the image is excellent good fair poor bad Assess this image"


def shapes(vocab_size: int) -> dict[str, tuple[int, ...]]:
    """By the released names."""
    found: dict[str, tuple[int, ...]] = {
        "visual.patch_embed.proj.weight": (VISION_WIDTH, 3, 2, PATCH, PATCH),
        "visual.merger.ln_q.weight": (VISION_WIDTH,),
        "visual.merger.ln_q.bias": (VISION_WIDTH,),
        "visual.merger.mlp.0.weight": (4 * VISION_WIDTH, 4 * VISION_WIDTH),
        "visual.merger.mlp.0.bias": (4 * VISION_WIDTH,),
        "visual.merger.mlp.2.weight": (WIDTH, 4 * VISION_WIDTH),
        "visual.merger.mlp.2.bias": (WIDTH,),
        "model.embed_tokens.weight": (vocab_size, WIDTH),
        "model.norm.weight": (WIDTH,),
        "lm_head.weight": (vocab_size, WIDTH),
    }
    for i in range(VISION_LAYERS):
        block = f"visual.blocks.{i}"
        found |= {
            f"{block}.norm{n}.{x}": (VISION_WIDTH,) for n in (1, 2) for x in ("weight", "bias")
        }
        for name, rows, columns in (
            ("attn.qkv", 3 * VISION_WIDTH, VISION_WIDTH),
            ("attn.proj", VISION_WIDTH, VISION_WIDTH),
            ("mlp.fc1", 4 * VISION_WIDTH, VISION_WIDTH),
            ("mlp.fc2", VISION_WIDTH, 4 * VISION_WIDTH),
        ):
            found |= {f"{block}.{name}.weight": (rows, columns), f"{block}.{name}.bias": (rows,)}
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        found |= {
            f"{layer}.{norm}.weight": (WIDTH,)
            for norm in ("input_layernorm", "post_attention_layernorm")
        }
        for name, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            found[f"{layer}.self_attn.{name}_proj.weight"] = (heads * HEAD, WIDTH)
            found[f"{layer}.self_attn.{name}_proj.bias"] = (heads * HEAD,)
        found[f"{layer}.self_attn.o_proj.weight"] = (WIDTH, HEADS * HEAD)
        found |= {f"{layer}.mlp.{name}_proj.weight": (MLP, WIDTH) for name in ("gate", "up")}
        found[f"{layer}.mlp.down_proj.weight"] = (WIDTH, MLP)
    return found


def configuration(tokenizer) -> dict:
    """One level, the language model's fields among the others."""
    ids = tokenizer.convert_tokens_to_ids
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl",
        "attention_dropout": 0.0, "bos_token_id": ids("<|endoftext|>"),
        "eos_token_id": ids("<|im_end|>"), "vision_start_token_id": ids("<|vision_start|>"),
        "vision_end_token_id": ids("<|vision_end|>"), "vision_token_id": 5,
        "image_token_id": ids("<|image_pad|>"), "video_token_id": ids("<|video_pad|>"),
        "hidden_act": "silu", "hidden_size": WIDTH, "initializer_range": 0.02,
        "intermediate_size": MLP, "max_position_embeddings": 32768, "max_window_layers": 28,
        "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 32768, "tie_word_embeddings": False, "torch_dtype": "float32",
        "transformers_version": "4.49.0", "use_cache": True, "use_sliding_window": False,
        "vision_config": {
            "depth": VISION_LAYERS, "embed_dim": VISION_WIDTH, "mlp_ratio": 4,
            "num_heads": VISION_HEADS, "in_chans": 3, "hidden_size": WIDTH, "patch_size": PATCH,
            "spatial_merge_size": 2, "spatial_patch_size": PATCH, "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": SECTIONS},
        "vocab_size": len(tokenizer),
    }  # fmt: skip


def write_vida(folder: Path, *, num_shards: int = 3) -> dict[str, torch.Tensor]:
    """The whole folder; returns its weights. The tokenizer is a tiny one's, with its template."""
    folder.mkdir(parents=True)
    tokenizer = tiny_policy("qwen2_vl", size=SIZE, texts=(LEVEL_WORDS,)).tokenizer
    tokenizer.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(configuration(tokenizer)))
    pixels = {
        "min_pixels": 3136, "max_pixels": 12845056, "patch_size": PATCH, "temporal_patch_size": 2,
        "merge_size": 2, "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(pixels))
    ends = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    generation = {"eos_token_id": ends, "do_sample": True, "temperature": 0.01, "top_k": 1}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    draw = torch.Generator().manual_seed(0)
    state = {}
    for name, shape in shapes(len(tokenizer)).items():
        spread = 0.3 if len(shape) == 1 else 1.5 / shape[-1] ** 0.5
        state[name] = torch.randn(shape, generator=draw) * spread + (len(shape) == 1)
    state["visual.patch_embed.proj.weight"] *= 0.05
    write_shards(folder, state, num_shards)
    return state
