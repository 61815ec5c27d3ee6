"""What the tiny random policies of all backbones share; they are built offline, without any file.

A tiny policy has the classes and the code path of an 8B model and about 1 M parameters: the demo
trains one, the tests use smaller ones. Each backbone builds its own configuration and processor
(`Backbone.tiny`) from what stands here, and `thinker.policies.tiny_policy` the policy. The
tokenizer is a byte-level BPE trained on our own texts, with the special tokens of the real
processors, so that every word of the prompt is one token and every digit of a score is one token.
"""

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2TokenizerFast

from thinker import prompts
from thinker.policies.motion import MotionConfig, MotionEncoder, SlowFastConfig
from thinker.tasks.level import LEVEL_QUESTION, LEVELS
from thinker.video import ClipSpec

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] }}{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ANSWER_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
VOCAB_SIZE = 640
"""256 bytes, the special tokens, and merges for every word of the texts below."""

IMAGE_FRAMES = 4
"""A still may be as large as so many keyframes."""

INITIALIZER_RANGE = 0.08
"""About 1/sqrt(width): the 0.02 of wide models makes layers this narrow nearly blind."""


@dataclass(frozen=True, kw_only=True)
class TinySize:
    """Sizes of a tiny policy; the defaults are those of the demo."""

    width: int = 128
    """Width of the language model."""

    layers: int = 3
    """Layers of the language model."""

    heads: int = 2
    """Attention heads of the language model, which always has two key/value heads."""

    vision_width: int = 64
    """Width of the vision tower."""

    vision_layers: int = 2
    """Layers of the vision tower."""

    frame_px: int = 64
    """Side of a keyframe; its square is the largest area where the aspect ratio is kept."""

    patch_px: int = 8
    """Side of a patch of the vision tower."""

    patch_energies: bool = False
    """Whether InternVL's patches are the energies of their frequencies (`EnergyPatches`), nothing
    of which is learnt, in place of an embedding. They need a `vision_width` of 126 or more."""

    patches_merged: int = 4
    """Side of the square of patches that InternVL's pixel shuffle makes one token of (2 in
    InternVL3)."""

    num_keyframes: int = 4
    """Keyframes of a video."""

    num_motion_frames: int = 32
    """Dense frames of a video."""

    motion_px: int = 48
    """Side of a dense frame."""

    tokens_per_frame: int = 1
    """Motion tokens of a keyframe."""

    slow_width: int = 16
    """`SlowFastConfig.slow_width`."""

    beta_inv: int = 2
    """`SlowFastConfig.beta_inv`."""

    motion_mode: str = "interleaved"
    """`MotionConfig.mode`."""


@torch.no_grad()
def wake_motion(motion: MotionEncoder) -> None:
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
def wake_vision(tower: torch.nn.Module) -> None:
    """Give an untrained tower filters to start from, and their energies; a pretrained one has its
    own.

    The lowest 2-D cosines of a patch, as many as there are channels, on luma, each scaled by its
    relief (`cosines`), so that all answer about equally strongly (standard deviation 1; 4.7 for the
    mean of a patch, unscaled). Random filters answer to the mean of a patch alone: coding artefacts
    and noise, which change the small coefficients, are lost in the first layer normalisation
    (docs/log.md).

    The first block attends weakly and adds the magnitude of each coefficient, gelu(2x)/2 +
    gelu(-2x)/2, about |x|: a mean over patches sees how much of a frequency there is, while its
    signed values cancel out.
    Gated blocks (Qwen2.5-VL's) stay as drawn.
    """
    _wake_energies(tower)
    convolutions = (torch.nn.Conv2d, torch.nn.Conv3d)
    projection = next(m for m in tower.modules() if isinstance(m, convolutions))
    cosines_UX, relief_UV = cosines(projection.kernel_size[-1])
    gain_UV = relief_UV / 1.6
    filters = torch.einsum("uv,uy,vx->uvyx", gain_UV, cosines_UX, cosines_UX).flatten(0, 1)
    lowest = relief_UV.flatten().argsort(stable=True)[: projection.out_channels]
    weight = projection.weight[: len(lowest)]  # (filters, channels, [frames,] side, side)
    if weight.dim() == 4:
        weight = weight.unsqueeze(2)
    # The mean of the channels; the frames of a pair weigh 2 : 1, lest their order be lost.
    shares_T = 1.0 / torch.arange(1, weight.shape[2] + 1)
    shares_T /= shares_T.sum() * weight.shape[1]
    weight.copy_(filters[lowest][:, None, None] * shares_T[:, None, None])


def cosines(side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Orthonormal cosines of U = `side` frequencies at X = `side` places, and the relief (U, U) by
    which an amplitude of a natural picture is multiplied to be about as large at each pair of
    frequencies: sqrt(.12 + u² + v²), for amplitudes fall as 1 / frequency (Field 1987).

    >>> cosines_UX, relief_UV = cosines(2)
    >>> [round(x, 3) for x in cosines_UX[1].tolist()], round(relief_UV[1, 1].item(), 3)
    ([0.707, -0.707], 1.456)
    """
    place = torch.arange(side)
    cosines_UX = torch.cos(torch.pi * place[:, None] * (2 * place + 1) / (2 * side))
    cosines_UX *= (2 / side) ** 0.5
    cosines_UX[0] /= 2**0.5
    squared_UV = place[:, None] ** 2 + place**2
    return cosines_UX, (0.12 + squared_UV).sqrt()


def _wake_energies(tower: torch.nn.Module) -> None:
    def linear(module: torch.nn.Module) -> list[torch.nn.Linear]:
        return [m for m in module.modules() if isinstance(m, torch.nn.Linear)]

    name, mlp = next(named for named in tower.named_modules() if named[0].endswith("0.mlp"))
    if len(linear(mlp)) != 2:
        return
    attention, into, back = linear(tower.get_submodule(name.removesuffix(".mlp")))[-3:]
    attention.weight.mul_(0.3)
    width = into.in_features
    for layer in (into, back):
        layer.weight.zero_()
        layer.bias.zero_()
    for first, sign in ((0, 1.0), (width, -1.0)):
        place = torch.arange(min(width, into.out_features - first))
        into.weight[first + place, place] = 2.0 * sign
        back.weight[place, first + place] = 0.5


def train_tokenizer(
    texts: tuple[str, ...], *, special_tokens: tuple[str, ...], named_tokens: dict[str, str]
) -> Qwen2TokenizerFast:
    """Byte-level BPE over our prompts and `texts`.

    special_tokens: those of the real tokenizer that stand around and for a medium. named_tokens:
    those of them that the processor looks for, by the attribute that it reads.
    """
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special_tokens]
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
        f"{prompts.OPENINGS[prompts.VIDEO]}\n{prompts.SCORING}",
        prompts.RECOGNITION,
        LEVEL_QUESTION,
        prompts.SHORT_SCORING,
        "user\nassistant\nFrame1:\nMotion Feature:\n",
        prompts.scoring_answer(" ".join(LEVELS), "3.50"),
        *texts,
    ]
    tokenizer.train_from_iterator(corpus * 3, trainer)  # a merge needs at least two occurrences
    tokenizer.add_tokens(list(ANSWER_TAGS))  # text, not special tokens: decoding keeps them
    return Qwen2TokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        bos_token=None,
        unk_token=None,
        padding_side="left",
        extra_special_tokens=named_tokens,
        chat_template=CHAT_TEMPLATE,
    )


def text_config(size: TinySize, tokenizer) -> dict:
    """Fields of the language model's configuration, a Qwen2."""
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


SAMPLERS = {"frames": "seconds", "frames_viewed": "rounded_seconds"}
"""`ClipConfig.sampler` by motion mode; that of all others is the default."""


def sampler(size: TinySize) -> str:
    """The frame sampler that goes with the motion mode."""
    return SAMPLERS.get(size.motion_mode, ClipSpec.sampler)


def qwen3_text_config(size: TinySize, tokenizer) -> dict:
    """As `text_config`, a Qwen3: queries and keys are normalised, projections have no biases, and
    the heads together are wider than the model, as in Qwen3's smaller models."""
    own = {"model_type": "qwen3", "head_dim": 2 * size.width // size.heads}
    return text_config(size, tokenizer) | own


def motion_config(size: TinySize) -> dict:
    """Fields of the motion branch's configuration."""
    per_keyframe = size.num_keyframes * size.tokens_per_frame
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
        max_positions=size.num_motion_frames if size.motion_mode == "frames" else per_keyframe,
    ).to_dict()
