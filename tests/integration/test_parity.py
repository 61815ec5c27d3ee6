"""What is read, shown and computed is the same in training, in single and in batch inference, and
the same as in the code that it is said to be compatible with."""

import dataclasses
from functools import partial

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLModel
from trl import GRPOConfig

from tests.helpers.policy_factory import (
    BACKBONES,
    FRAME_POLICIES,
    SIZE,
    conversations,
    keeps_aspect,
    one_clip,
    random_clip,
    small_policy,
)
from tests.helpers.trainer_runs import ClipsByName, examples_of, rewards
from tests.helpers.video_factory import write_video
from thinker import prompts
from thinker.data.examples import Example
from thinker.policies import Prompt, load_policy
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import distinct_clips
from thinker.policies.motion import IMAGENET_MEAN_STD
from thinker.rollout.base import Completion, Sampling
from thinker.rollout.hf import hf_rollout
from thinker.score.scorer import QualityScorer
from thinker.train.grpo.trainer import ThinkerTrainer
from thinker.video import keyframe_indices, read_clip
from thinker.video.medium import medium

NEW_TOKENS = 6
TOLERANCE = 1e-5  # float32: the sums run in another order (packed rows, cache, padding), no more


# Training and inference


@dataclasses.dataclass
class Seen:
    """What one path read and computed for one prompt; media: one dict a clip."""

    indices: list[tuple]
    media: list[dict]
    prompt_ids: list
    tokens: list
    logps: torch.Tensor


def name_of(prompt: Prompt) -> str:
    return " ".join([clip.path.name for clip in prompt.clips] + [t.text for t in prompt.turns])


def indices_of(prompt: Prompt) -> list[tuple]:
    return [(clip.keyframe_indices, clip.motion_indices) for clip in prompt.clips]


def watch(policy, monkeypatch):
    """Record the media of every clip, the prompts in order, and the logits of every generation."""
    media_of, prompts_seen, generations = {}, [], []
    media_inputs, prompt_ids = policy.inputs.media_inputs, policy.inputs.prompt_ids
    generate = policy.model.generate

    def recorded_media(clips):
        media = media_inputs(clips)
        media_of.update(zip([clip.key for clip in clips], split_media(media), strict=True))
        return media

    def recorded_ids(prompt):
        prompts_seen.append(prompt)
        return prompt_ids(prompt)

    def recorded_generate(input_ids, **kwargs):
        output = generate(
            input_ids=input_ids, output_logits=True, return_dict_in_generate=True, **kwargs
        )
        tokens = output.sequences[:, input_ids.shape[1] :]
        logps = torch.stack(output.logits, 1).log_softmax(-1)
        generations.append((tokens, logps.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)))
        return output.sequences

    monkeypatch.setattr(policy.inputs, "media_inputs", recorded_media)
    monkeypatch.setattr(policy.inputs, "prompt_ids", recorded_ids)
    monkeypatch.setattr(policy.model, "generate", recorded_generate)
    return media_of, prompts_seen, generations


def split_media(media) -> list[dict]:
    """The share of every clip; Qwen's patches lie one after another, as many as its grids say."""
    slots = media["slots"]
    if "image_grid_thw" in media:
        grids = media["image_grid_thw"].split(slots)
        sizes = [int(grid.prod(1).sum()) for grid in grids]
        shares = [{"grids": grid} for grid in grids]
    else:
        sizes, shares = slots, [{} for _ in slots]
    for share, pixels in zip(shares, media["pixel_values"].split(sizes), strict=True):
        share["pixels"] = pixels
    motion = [frames for some in media["motion_frames"] for frames in some]
    for i, frames in zip(media["moving"], motion, strict=True):
        shares[i]["motion"] = frames
    return shares


def completion_of(tokens, end):
    tokens = tokens.tolist()
    return tokens[: tokens.index(end) + 1] if end in tokens else tokens


def scored(policy, monkeypatch, run) -> dict[str, Seen]:
    """What `run()` saw of each prompt; the same prompt must be seen alike every time."""
    with monkeypatch.context() as patch:
        media_of, prompts_seen, generations = watch(policy, patch)
        run()
    seen: dict[str, Seen] = {}
    ((tokens, logps),) = generations
    prompts_seen = prompts_seen[-len(tokens) :]  # a scorer asks once more, to sort by length
    for prompt, ids, row_logps in zip(prompts_seen, tokens, logps, strict=True):
        completion = completion_of(ids, policy.tokenizer.eos_token_id)
        new = Seen(
            indices=indices_of(prompt),
            media=[media_of[clip.key] for clip in prompt.clips],
            prompt_ids=policy.inputs.prompt_ids(prompt),
            tokens=completion,
            logps=row_logps[: len(completion)],
        )
        if name_of(prompt) in seen:
            assert_same(seen[name_of(prompt)], new)
        seen[name_of(prompt)] = new
    return seen


def assert_same(one: Seen, other: Seen) -> None:
    assert one.indices == other.indices
    for mine, theirs in zip(one.media, other.media, strict=True):
        assert mine.keys() == theirs.keys()
        for name, tensor in mine.items():
            assert torch.equal(tensor, theirs[name]), name
    assert one.prompt_ids == other.prompt_ids
    assert one.tokens == other.tokens
    assert (one.logps - other.logps).abs().max() < TOLERANCE


class Given:
    """A rollout back end that answers with given tokens, and with them reversed."""

    name = "given"
    reports_logprobs = False

    def __init__(self, completions):
        self.completions = completions

    def sync(self, step):
        return {}

    def generate(self, requests, num_generations, sampling, seed):
        assert num_generations == 2
        self.prompt_ids = [request.token_ids for request in requests]
        return [
            [Completion(token_ids=tokens), Completion(token_ids=tokens[::-1])]
            for tokens in self.completions
        ]


def trained(folder, samples, completions, output_dir, monkeypatch, read=None) -> dict[str, Seen]:
    """What one training step saw and computed, for the first completion of each prompt. read:
    medium → clip, by decoding where it is None."""
    policy = load_policy(folder)
    rollout = Given(completions)
    args = GRPOConfig(
        output_dir=str(output_dir), num_generations=2, max_steps=1,
        per_device_train_batch_size=2 * len(samples),
        max_completion_length=NEW_TOKENS, save_strategy="no", report_to=[], bf16=False,
        gradient_checkpointing=False, use_cpu=True, disable_tqdm=True, shuffle_dataset=False,
    )  # fmt: skip
    output_dir.mkdir()
    trainer = ThinkerTrainer(
        policy=policy,
        args=args,
        rewards=rewards("regression"),
        samples=samples,
        read_clip=read or partial(read_clip, spec=policy.inputs.clip_spec),
        rollout=lambda model: rollout,
    )
    media_inputs, shared = trainer.features.media, trainer.logprobs.shared
    media_of, calls = {}, []

    def recorded_media(clips, *, reference):
        media = media_inputs(clips, reference=reference)
        media_of.update(zip([clip.key for clip in clips], split_media(media), strict=True))
        return media

    def recorded_shared(*args, **kwargs):
        output = shared(*args, **kwargs)
        calls.append((kwargs["prompts"][::2], output[0].detach()[::2]))
        return output

    monkeypatch.setattr(trainer.features, "media", recorded_media)
    monkeypatch.setattr(trainer.logprobs, "shared", recorded_shared)
    trainer.train()
    [(prompts_seen, logps)] = calls
    return {
        name_of(prompt): Seen(
            indices=indices_of(prompt),
            media=[media_of[clip.key] for clip in prompt.clips],
            prompt_ids=rollout.prompt_ids[i],
            tokens=completions[i],
            logps=logps[i, : len(completions[i])],
        )
        for i, prompt in enumerate(prompts_seen)
    }


@torch.no_grad()
def padded_logps(policy, asked, seen, side) -> torch.Tensor:
    """One plain forward over rows of prompt and completion, padded on one side; a longer question
    beside them sees to it that there is padding."""
    pad = policy.tokenizer.pad_token_id
    longer = prompts.ask("And why? " * 20 + prompts.SHORT_SCORING)
    asked = [*asked, Prompt(clips=asked[0].clips, turns=longer)]
    rows = [torch.tensor(s.prompt_ids + s.tokens) for s in seen]
    rows.append(torch.tensor(policy.inputs.prompt_ids(asked[-1])))
    width = max(len(row) for row in rows)

    def padded(row, value):
        gap = width - len(row)
        return torch.nn.functional.pad(row, (gap, 0) if side == "left" else (0, gap), value=value)

    ids = torch.stack([padded(row, pad) for row in rows])
    mask = torch.stack([padded(torch.ones_like(row), 0) for row in rows])
    assert (mask == 0).any(1)[:-1].all()
    clips, media_rows = distinct_clips(asked)
    media = policy.inputs.media_inputs(clips)
    positions = policy.model.model.prompt_positions(ids, mask, media, media_rows)
    logits = policy.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions.ids,
        media_inputs=media,
        media_rows=media_rows,
    ).logits.log_softmax(-1)
    logps = []
    for i, s in enumerate(seen):
        begin = (width - len(rows[i]) if side == "left" else 0) + len(s.prompt_ids)
        steps = logits[i, begin - 1 : begin - 1 + len(s.tokens)]
        logps.append(steps.gather(-1, torch.tensor(s.tokens)[:, None])[:, 0])
    return logps


def assert_all_one(policy, asked, single, batch, train) -> None:
    """`single`, `batch` and `train` saw the prompts `asked` alike, and so do padded rows."""
    assert single.keys() == batch.keys() == train.keys() == {name_of(prompt) for prompt in asked}
    for name, seen in single.items():
        assert len(seen.tokens) > 1 and seen.logps.std() > 1e-2
        assert_same(seen, batch[name])
        assert_same(seen, train[name])
    for count in (1, 8):
        rows = [single[name_of(prompt)] for prompt in asked] * count
        for side in ("left", "right"):
            computed = padded_logps(policy, asked * count, rows, side)
            for logps, seen in zip(computed, rows, strict=True):
                assert (logps - seen.logps).abs().max() < TOLERANCE, (count, side)


@pytest.mark.parametrize("backbone", [*BACKBONES, *FRAME_POLICIES])
def test_training_and_inference_are_one(backbone, tmp_path, monkeypatch):
    """Indices, pixels, prompt ids and per-token logps of two video files are the same in the
    single scorer, in the batch path (16 rows), in the trainer's logprobs forward, and in a plain
    forward padded left or right. Qwen keeps the aspect ratio, so its prompts differ in length."""
    files = [
        write_video(tmp_path / "a.mp4", width=64, height=64, num_frames=20),
        write_video(tmp_path / "b.mp4", width=96, height=40, num_frames=31),
    ]
    small_policy(backbone, amplify=2.0).save(tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    policy.model.eval()
    samples = [
        Example(
            id=f"d/{i}",
            dataset="d",
            media=(medium(f),),
            mos=2.0 + i,
            target=2.0 + i,
            content=str(i),
        )
        for i, f in enumerate(files)
    ]
    asked = one_clip([read_clip(path, policy.inputs.clip_spec) for path in files])
    scorer = QualityScorer(policy, max_new_tokens=NEW_TOKENS, batch_size=16)
    single: dict[str, Seen] = {}
    for path in files:
        single |= scored(policy, monkeypatch, lambda path=path: scorer.score(path))
    many = [read_clip(path, policy.inputs.clip_spec) for path in files * 8]
    batch = scored(policy, monkeypatch, lambda: scorer.score_clips(many))
    completions = [single[path.name].tokens for path in files]
    train = trained(tmp_path / "policy", samples, completions, tmp_path / "run", monkeypatch)
    assert_all_one(policy, asked, single, batch, train)
    lengths = {len(seen.prompt_ids) for seen in single.values()}
    varies = backbone in FRAME_POLICIES or keeps_aspect(backbone)
    assert len(lengths) == (2 if varies else 1)


@pytest.mark.parametrize("backbone", [*BACKBONES, *FRAME_POLICIES])
def test_conversations_are_one_in_training_and_inference(backbone, tmp_path, monkeypatch):
    """The same of prompts with two videos of different size, with a still beside a video, with
    three turns behind a system turn, and without media: alone, in a batch of 16 rows, in the
    trainer's forward, and in padded rows."""
    small_policy(backbone, amplify=2.0).save(tmp_path / "policy")
    policy = load_policy(tmp_path / "policy")
    policy.model.eval()
    asked = conversations(policy)

    def generate(some):
        greedy = Sampling(max_new_tokens=NEW_TOKENS, temperature=0.0)
        hf_rollout(policy).generate(encode_prompts(policy, some), 1, greedy, seed=0)

    single: dict[str, Seen] = {}
    for prompt in asked:
        single |= scored(policy, monkeypatch, partial(generate, [prompt]))
    batch = scored(policy, monkeypatch, partial(generate, asked * 4))
    train = trained(
        tmp_path / "policy",
        examples_of(asked),
        [single[name_of(prompt)].tokens for prompt in asked],
        tmp_path / "run",
        monkeypatch,
        read=ClipsByName(asked),
    )
    assert_all_one(policy, asked, single, batch, train)


# Frames as the released code reads them


@pytest.mark.parametrize("num_frames", [1, 2, 5, 6, 7, 12, 13, 100, 299, 300, 1001])
@pytest.mark.parametrize("num_keyframes", [6, 12])
def test_keyframes_are_those_of_the_released_code(num_frames, num_keyframes):
    """Its sampler asks for -100000 s to 100000 s and clips that to the video."""
    fps, last = 29.97, num_frames - 1
    start, end = max(0, round(-100000 * fps)), min(round(100000 * fps), last)
    seg = float(end - start) / num_keyframes
    expected = [int(start + seg / 2 + np.round(seg * i)) for i in range(num_keyframes)]
    assert keyframe_indices(num_frames, num_keyframes) == expected


def frames_of(path, numbers) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [frames[i] for i in numbers]


def noisy_video(path, width, height, num_frames=9):
    """Losslessly coded noise over a gradient: every resampling difference shows."""
    draw = np.random.default_rng(0)
    ramp = np.linspace(0, 200, width)[None, :, None] * np.ones((height, 1, 3))
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "bgr0"
        for _ in range(num_frames):
            picture = (ramp + draw.integers(0, 56, (height, width, 3))).astype(np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def test_compatible_pixels_equal_the_released_rule_exactly(tmp_path):
    """PIL's default (bicubic) resize to a square, ToTensor, ImageNet mean and std: bit for bit."""
    path = noisy_video(tmp_path / "noise.mkv", 150, 90)
    policy = small_policy("internvl3")
    policy.inputs.clip_config = dataclasses.replace(policy.inputs.clip_config, resampler="pil")
    mean, std = IMAGENET_MEAN_STD
    policy.processor.image_processor.image_mean = list(mean)
    policy.processor.image_processor.image_std = list(std)
    clip = read_clip(path, policy.inputs.clip_spec)
    got = policy.inputs.pixels([clip])["pixel_values"]
    for frame, pixels in zip(frames_of(path, clip.keyframe_indices), got, strict=True):
        image = Image.fromarray(frame).resize((SIZE.frame_px, SIZE.frame_px))
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)  # ToTensor
        expected = (tensor - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
        assert torch.equal(pixels, expected)


# Frames and prompts as transformers' own processors make them

# The 8-bit pictures are equal to the bit; what is left is the order of rescaling and normalising.
ROUNDING = 1e-6


def test_native_internvl_pixels_equal_the_processors(tmp_path):
    path = noisy_video(tmp_path / "noise.mkv", 150, 90)
    policy = small_policy("internvl3")
    clip = read_clip(path, policy.inputs.clip_spec)
    got = policy.inputs.pixels([clip])["pixel_values"]
    frames = torch.from_numpy(np.stack(frames_of(path, clip.keyframe_indices)))
    output = policy.processor.video_processor(
        videos=[frames.permute(0, 3, 1, 2)], return_tensors="pt"
    )
    expected = output["pixel_values_videos"][0]
    assert got.shape == expected.shape
    assert (got - expected).abs().max() < ROUNDING


@pytest.mark.parametrize(("width", "height"), [(150, 90), (64, 64), (31, 200)])
def test_native_qwen_patches_equal_the_processors(tmp_path, width, height):
    """Smart resize, pairs of frames, patch order: all of transformers' video processor."""
    path = noisy_video(tmp_path / "noise.mkv", width, height)
    policy = small_policy("qwen2_5_vl")
    clip = read_clip(path, policy.inputs.clip_spec)
    media = policy.inputs.pixels([clip])
    frames = torch.from_numpy(np.stack(frames_of(path, clip.keyframe_indices)))
    output = policy.processor.video_processor(
        videos=[frames.permute(0, 3, 1, 2)], do_sample_frames=False, return_tensors="pt"
    )
    pairs, rows, columns = output["video_grid_thw"][0].tolist()
    assert media["image_grid_thw"].tolist() == [[1, rows, columns]] * pairs
    expected = output["pixel_values_videos"]
    assert media["pixel_values"].shape == expected.shape
    assert (media["pixel_values"] - expected).abs().max() < ROUNDING


def chat(policy, text: str) -> str:
    message = {"role": "user", "content": [{"type": "text", "text": text}]}
    return policy.processor.apply_chat_template([message], add_generation_prompt=True)


def video_text(slots: list[str]) -> str:
    frames = [f"Frame{i}:{slot}" for i, slot in enumerate(slots, start=1)]
    return "\n".join(["Now you will receive a video:", *frames, prompts.SHORT_SCORING])


def test_internvl_prompt_ids_equal_the_processors():
    """Frames as images: its processor expands each; ours adds motion placeholders to the run."""
    policy = small_policy("internvl3")
    clip = random_clip(policy, 0)
    slots = ["<IMG_CONTEXT>"] * len(clip.keyframes_KCHW)
    images = [Image.fromarray(f.permute(1, 2, 0).numpy()) for f in clip.keyframes_KCHW]
    text = chat(policy, video_text(slots))
    output = policy.processor(text=[text], images=images, crop_to_patches=False)
    expected = output["input_ids"][0]
    ids, kept, run = policy.inputs.prompt_ids(Prompt(clips=(clip,))), [], 0
    token, visual = policy.model.config.image_token_id, policy.inputs.image_seq_length
    for i in ids:
        run = run + 1 if i == token else 0
        if run <= visual:  # what goes beyond are the motion tokens
            kept.append(i)
    assert len(ids) - len(kept) == len(slots) * SIZE.tokens_per_frame
    assert kept == list(expected)


def test_qwen_prompt_ids_and_positions_equal_transformers():
    """A slot is an image item of a frame pair; its motion tokens are an item of one row of tokens.

    Given as images of those sizes, transformers' processor expands to the same ids, and its
    `get_rope_index` gives the same positions; `second_per_grid_ts` has no part in it, because time
    is told by the order of the items and their `Frame…` labels.
    """
    policy = small_policy("qwen2_5_vl")
    config, inputs = policy.model.config, policy.inputs
    clip = random_clip(policy, 0, height=40, width=20)
    slots = len(inputs.slot_tokens(clip))
    pair, patch = inputs.pair, config.vision_config.patch_size
    motion = SIZE.tokens_per_frame * pair
    pictures = [Image.new("RGB", (20, 40)), Image.new("RGB", (2 * motion * patch, 2 * patch))]
    item = "<|vision_start|><|image_pad|><|vision_end|>"
    text = chat(policy, video_text([2 * item] * slots))
    output = policy.processor(
        text=[text], images=pictures * slots, do_resize=False, return_tensors="pt"
    )
    ids = torch.tensor([inputs.prompt_ids(Prompt(clips=(clip,)))])
    assert ids.tolist() == output["input_ids"].tolist()
    media = inputs.media_inputs([clip])
    mask = torch.ones_like(ids)
    ours = policy.model.model.prompt_positions(ids, mask, media)
    theirs, deltas = Qwen2_5_VLModel.get_rope_index(
        policy.model.model,
        output["input_ids"],
        mm_token_type_ids=output["mm_token_type_ids"],
        image_grid_thw=output["image_grid_thw"],
        attention_mask=mask,
    )
    assert torch.equal(ours.ids, theirs)
    assert ours.next.tolist() == (mask.sum(1) + deltas[:, 0]).tolist()
    # By hand: the first item begins at p; 2 x 1 merged tokens lie at rows p, p + 1 of column p;
    # then start and end marks, and the motion tokens in one row, one column each.
    p = ids[0].tolist().index(config.image_token_id)
    assert ours.ids[:, 0, p : p + 2].tolist() == [[p, p], [p, p + 1], [p, p]]
    first = p + 2 + 2  # what the item advances by is its longer side, 2, then two marks
    begin = p + 2 + 2
    columns = list(range(first, first + motion))
    assert ours.ids[:, 0, begin : begin + motion].tolist() == [
        [first] * motion,
        [first] * motion,
        columns,
    ]
