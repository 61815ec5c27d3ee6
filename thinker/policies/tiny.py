"""Tiny random policies of both backbones, built offline from configuration classes.

Same classes and code path as the 8B models, about 1 M parameters: the demo trains one, the tests
use smaller ones. The tokenizer is a byte-level BPE trained on our own texts, with the special
tokens of the real processors, so that every word of the prompt is one token and every digit of a
score is one token.
"""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Qwen2_5_VLProcessor,
    Qwen2TokenizerFast,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)
from transformers.models.got_ocr2.image_processing_got_ocr2 import GotOcr2ImageProcessor
from transformers.models.internvl.processing_internvl import InternVLProcessor
from transformers.models.internvl.video_processing_internvl import InternVLVideoProcessor

from thinker import prompts
from thinker.policies import BACKBONES, Policy
from thinker.policies.inputs import ClipConfig
from thinker.policies.motion.encoder import MotionConfig, MotionEncoder, SlowFastConfig

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL_TOKENS = {
    "internvl3": ("<img>", "</img>", "<IMG_CONTEXT>", "<video>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"),
}
ANSWER_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
VOCAB_SIZE = 640  # 256 bytes, the special tokens, and merges for every word of the texts below


INITIALIZER_RANGE = 0.08
"""About 1/sqrt(width): the 0.02 of wide models makes layers this narrow nearly blind."""


@dataclass(frozen=True, kw_only=True)
class TinySize:
    """Sizes of a tiny policy; the defaults are those of the demo.

    width, layers, heads: of the language model (2 key/value heads). vision_*: of the vision tower.
    frame_px: side of a keyframe; patch_px: side of a patch; patches_merged: side of the square of
    patches that InternVL's pixel shuffle makes one token of (2 in InternVL3) .
    """

    width: int = 128
    layers: int = 3
    heads: int = 2
    vision_width: int = 64
    vision_layers: int = 2
    frame_px: int = 64
    patch_px: int = 8
    patches_merged: int = 4
    num_keyframes: int = 4
    num_motion_frames: int = 32
    motion_px: int = 48
    tokens_per_frame: int = 1
    slow_width: int = 16
    beta_inv: int = 2
    motion_mode: str = "interleaved"


def tiny_policy(
    backbone: str,
    *,
    size: TinySize | None = None,
    texts: tuple[str, ...] = (),
    seed: int = 0,
) -> Policy:
    """Build a random policy of `backbone` ("internvl3" or "qwen2_5_vl").

    texts: what the tokenizer should know beyond the prompts (the answers of the warm start). The
    result is in memory only; `Policy.save` writes it, and `load_policy` reads it back bit-equal.
    """
    if backbone not in BACKBONES:
        raise ValueError(f"no tiny policy for backbone {backbone!r}; known: {sorted(BACKBONES)}")
    size = size or TinySize()
    build = {"internvl3": _internvl3, "qwen2_5_vl": _qwen2_5_vl}[backbone]
    tokenizer = train_tokenizer(backbone, texts)
    config, processor = build(size, tokenizer)
    config.eos_token_id = tokenizer.eos_token_id
    config.scoring_question = prompts.SHORT_SCORING
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BACKBONES[backbone].model(config)
        if model.model.motion is not None and model.model.motion.config.mode == "interleaved":
            _wake_motion(model.model.motion)
        _wake_vision(model.parts()["vision_tower"])
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.forbid_placeholders()
    inputs = BACKBONES[backbone].inputs(processor, config)
    return Policy(model=model, processor=processor, inputs=inputs)


@torch.no_grad()
def _wake_motion(motion: MotionEncoder) -> None:
    """Give an untrained motion encoder a signal to start from; a pretrained one has its own.

    Stem filters become differences of consecutive frames, so that they answer to change alone
    (still content is the vision tower's); the temporal convolutions start centred and the residual
    branches weak, so that a feature keeps its moment in time; the projector is drawn for its width.
    A linear probe of the four motion distortions rises from .13 to .82 by it (docs/log.md).
    """
    for name, layer in motion.slowfast.named_modules():
        if name.endswith("blocks.1.conv"):  # the stem of the fast pathway
            centre = layer.weight.shape[2] // 2
            filters = layer.weight[:, :, centre].clone()
            layer.weight.zero_()
            layer.weight[:, :, centre], layer.weight[:, :, centre - 1] = filters, -filters
        elif name.endswith("conv_a"):
            centre = layer.weight.shape[2] // 2
            filters = layer.weight[:, :, centre].clone() * layer.weight.shape[2] ** 0.5
            layer.weight.zero_()
            layer.weight[:, :, centre] = filters
        elif name.endswith("norm_c"):
            layer.weight.fill_(0.3)
    for layer in motion.projector:
        if isinstance(layer, torch.nn.Linear):
            torch.nn.init.normal_(layer.weight, std=layer.in_features**-0.5)


@torch.no_grad()
def _wake_vision(tower: torch.nn.Module) -> None:
    """Give an untrained patch embedding filters to start from; a pretrained one has its own.

    The lowest 2-D cosines of a patch, as many as there are channels, on luma. Amplitudes of natural
    pictures fall as 1 / frequency (Field 1987), so each is scaled by its frequency and all answer
    about equally strongly (standard deviation 1; 4.7 for the mean of a patch, unscaled). Random
    filters answer to the mean of a patch alone: coding artefacts and noise, which change the small
    coefficients, are lost in the first layer normalisation (docs/log.md).
    """
    convolutions = (torch.nn.Conv2d, torch.nn.Conv3d)
    projection = next(m for m in tower.modules() if isinstance(m, convolutions))
    side = projection.kernel_size[-1]
    place = torch.arange(side)
    cosines_UX = torch.cos(torch.pi * place[:, None] * (2 * place + 1) / (2 * side))
    cosines_UX *= (2 / side) ** 0.5
    cosines_UX[0] /= 2**0.5
    squared_UV = place[:, None] ** 2 + place**2
    gain_UV = (0.12 + squared_UV).sqrt() / 1.6
    filters = torch.einsum("uv,uy,vx->uvyx", gain_UV, cosines_UX, cosines_UX).flatten(0, 1)
    lowest = squared_UV.flatten().argsort(stable=True)[: projection.out_channels]
    weight = projection.weight[: len(lowest)]  # (filters, channels, [frames,] side, side)
    if weight.dim() == 4:
        weight = weight.unsqueeze(2)
    # The mean of the channels; the frames of a pair weigh 2 : 1, lest their order be lost.
    shares_T = 1.0 / torch.arange(1, weight.shape[2] + 1)
    shares_T /= shares_T.sum() * weight.shape[1]
    weight.copy_(filters[lowest][:, None, None] * shares_T[:, None, None])


def train_tokenizer(backbone: str, texts: tuple[str, ...]) -> Qwen2TokenizerFast:
    """Byte-level BPE over our prompts and `texts`, with the special tokens of the real
    tokenizer."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *SPECIAL_TOKENS[backbone]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = [
        prompts.video_text([], prompts.SCORING),
        prompts.RECOGNITION,
        prompts.LEVEL_QUESTION,
        prompts.SHORT_SCORING,
        "user\nassistant\nFrame1:\nMotion Feature:\n",
        prompts.scoring_answer(" ".join(prompts.LEVELS), "3.50"),
        *texts,
    ]
    tokenizer.train_from_iterator(corpus * 3, trainer)  # a merge needs at least two occurrences
    tokenizer.add_tokens(list(ANSWER_TAGS))  # text, not special tokens: decoding keeps them
    if backbone == "internvl3":
        extra = {
            "start_image_token": "<img>",
            "end_image_token": "</img>",
            "context_image_token": "<IMG_CONTEXT>",
            "video_token": "<video>",
        }
    else:
        extra = {"image_token": "<|image_pad|>", "video_token": "<|video_pad|>"}
    return Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token=None,
        unk_token=None,
        padding_side="left",
        extra_special_tokens=extra,
        chat_template=CHAT_TEMPLATE,
    )


def _text_config(size: TinySize, tokenizer) -> dict:
    return {
        "model_type": "qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": size.width,
        "intermediate_size": 3 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
        "initializer_range": INITIALIZER_RANGE,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _motion_config(size: TinySize) -> dict:
    slowfast = SlowFastConfig(
        depths=(1, 1, 1, 1), slow_width=size.slow_width, beta_inv=size.beta_inv
    )
    return MotionConfig(
        mode=size.motion_mode,
        hidden_size=size.width,
        num_keyframes=size.num_keyframes,
        slowfast=slowfast,
        num_motion_frames=size.num_motion_frames,
        motion_px=size.motion_px,
        tokens_per_frame=size.tokens_per_frame,
        max_positions=size.num_keyframes * size.tokens_per_frame,
    ).to_dict()


def _internvl3(size: TinySize, tokenizer):
    tokens = (size.frame_px // size.patch_px // size.patches_merged) ** 2
    config = BACKBONES["internvl3"].config(
        vision_config={
            "hidden_size": size.vision_width,
            "intermediate_size": 2 * size.vision_width,
            "num_hidden_layers": size.vision_layers,
            "num_attention_heads": 4,
            "image_size": size.frame_px,
            "patch_size": size.patch_px,
            "initializer_range": INITIALIZER_RANGE,
            "layer_scale_init_value": 1.0,
        },
        text_config=_text_config(size, tokenizer),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=tokens,
        downsample_ratio=1 / size.patches_merged,
        tie_word_embeddings=False,
        motion_config=_motion_config(size),
        clip_config=ClipConfig(
            num_keyframes=size.num_keyframes, keyframe_px=size.frame_px
        ).to_dict(),
    )
    pixels = {"height": size.frame_px, "width": size.frame_px}
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=pixels, crop_to_patches=False),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=pixels),
        image_seq_length=tokens,
        chat_template=CHAT_TEMPLATE,
    )
    return config, processor


def _qwen2_5_vl(size: TinySize, tokenizer):
    head_dim = size.width // size.heads
    quarter = head_dim // 8  # temporal, height, width sections of head_dim / 2, as 16:24:24 of 64
    text = _text_config(size, tokenizer) | {
        "model_type": "qwen2_5_vl_text",
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [
                quarter,
                (head_dim // 2 - quarter) // 2,
                (head_dim // 2 - quarter) // 2,
            ],
        },
    }
    config = BACKBONES["qwen2_5_vl"].config(
        vision_config={
            "depth": size.vision_layers,
            "hidden_size": size.vision_width,
            "intermediate_size": 2 * size.vision_width,
            "num_heads": 4,
            "out_hidden_size": size.width,
            "patch_size": size.patch_px,
            "window_size": 4 * size.patch_px,
            "initializer_range": INITIALIZER_RANGE,
            "fullatt_block_indexes": [size.vision_layers - 1],
        },
        text_config=text,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=tokenizer.convert_tokens_to_ids("<|vision_start|>"),
        vision_end_token_id=tokenizer.convert_tokens_to_ids("<|vision_end|>"),
        tie_word_embeddings=False,
        motion_config=_motion_config(size),
        clip_config=ClipConfig(
            num_keyframes=size.num_keyframes,
            keyframe_px=0,
            min_pixels=(2 * size.patch_px) ** 2,
            max_pixels=size.frame_px**2,
        ).to_dict(),
    )
    limits = {"shortest_edge": (2 * size.patch_px) ** 2, "longest_edge": size.frame_px**2}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(patch_size=size.patch_px, size=limits),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(patch_size=size.patch_px, size=limits),
        chat_template=CHAT_TEMPLATE,
    )
    return config, processor
