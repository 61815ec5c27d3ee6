"""Each video is encoded once: features are those of a fresh encode, and the counts are exact."""

import contextlib
from dataclasses import replace

import pytest
import torch

from tests.helpers.counted import frames, watched
from tests.helpers.logprobs_runs import QUESTIONS, Case, recorded_trainer, save_start
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
from tests.helpers.trainer_runs import (
    GROUP,
    NUM_VIDEOS,
    make_trainer,
    scripted,
)
from thinker.policies.encode import encode_prompts
from thinker.policies.inputs import distinct_clips, moves
from thinker.train.grpo.features import VideoFeatureCache, same_part
from thinker.video.perturb import PERTURBATIONS, perturb_clip

K, M = SIZE.num_keyframes, SIZE.num_motion_frames
FROZEN = [(), ("vision_tower",), ("slowfast",), ("vision_tower", "slowfast")]


def encoded(policy, reference=None):
    return VideoFeatureCache(policy.inputs, policy.model, reference, contextlib.nullcontext)


@pytest.mark.parametrize("backbone", dict.fromkeys([*BACKBONES, *FRAME_POLICIES, "qwen3_vl"]))
def test_embeddings_of_a_video_and_its_copies_are_those_of_a_fresh_encode(backbone):
    """A copy costs only the slots that its source does not have: none for a reversed InternVL clip,
    one grey frame for a dropped one, every changed pair for Qwen2.5-VL."""
    for frozen in FROZEN if backbone in BACKBONES else FROZEN[::3]:
        policy = small_policy(backbone)
        policy.model.freeze(frozen)
        videos, counters = encoded(policy), watched(policy)
        clip = random_clip(policy, 3)
        for kind in PERTURBATIONS:
            videos.begin()
            copy = videos.perturbed(clip, kind, seed=5)
            assert torch.equal(copy.keyframes_KCHW, perturb_clip(clip, kind, 5).keyframes_KCHW)
            with torch.no_grad():
                fresh = [
                    policy.model.model.encode_media(**policy.inputs.media_inputs([c]))[0]
                    for c in (clip, copy)
                ]
            frames(counters)
            once = videos.embeds([clip, copy], version=0)
            for one, other in zip(once, fresh, strict=True):
                assert torch.allclose(one, other, atol=1e-5), (frozen, kind)
            assert videos.embeds([copy, clip], version=0)[1] is once[0]
            shown = len(clip.keyframes_KCHW)
            assert frames(counters) == shown + changed_frames(backbone, kind), kind


def changed_frames(backbone: str, kind: str) -> int:
    """Of a clip of two frames (one Qwen slot), by kind: what its source does not hold."""
    if keeps_aspect(backbone):
        return 0 if kind == "identity" else 2
    return 1 if kind == "drop" else 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_dropped_frames_of_all_videos_are_encoded_once(backbone):
    policy = small_policy(backbone)
    videos, counters = encoded(policy), watched(policy)
    clips = [random_clip(policy, seed) for seed in range(3)]
    copies = [videos.perturbed(clip, "drop", seed=1) for clip in clips]
    videos.embeds([*clips, *copies], version=0)
    extra = 3 * 2 if keeps_aspect(backbone) else 1  # a pair with one dropped frame is a new pair
    assert frames(counters) == 3 * K + extra


@pytest.mark.parametrize("backbone", BACKBONES)
def test_new_weights_need_a_new_encode_and_frozen_towers_do_not(backbone):
    for frozen, again in (((), K), (("vision_tower",), 0)):
        policy = small_policy(backbone)
        policy.model.freeze(frozen)
        videos, counters = encoded(policy), watched(policy)
        clip = random_clip(policy, 1)
        before = videos.embeds([clip], version=0)[0].clone()
        with torch.no_grad():
            for part in ("vision_projector", "motion_projector"):
                for parameter in policy.model.parts()[part].parameters():
                    parameter.add_(0.05)
        frames(counters)
        after = videos.embeds([clip], version=1)[0]
        assert frames(counters) == again
        fresh = encode_prompts(policy, one_clip([clip]))[0].embeds
        assert torch.allclose(after, fresh, atol=1e-5)
        assert (after - before).abs().max() > 1e-3  # the projectors are never remembered


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_frozen_tower_serves_the_reference_only_with_equal_weights(backbone):
    policy, reference = small_policy(backbone), small_policy(backbone).model
    policy.model.freeze(["vision_tower", "slowfast"])
    assert same_part(policy.model, reference, "vision_tower")
    assert encoded(policy, reference).shared_with_reference == {"vision_tower", "slowfast"}
    with torch.no_grad():
        next(reference.parts()["vision_tower"].parameters()).add_(1e-3)
    assert encoded(policy, reference).shared_with_reference == {"slowfast"}
    videos, clip = encoded(policy, reference), random_clip(policy, 0)
    assert "slot_features" in videos.media([clip], reference=False)
    assert "pixel_values" in videos.media([clip], reference=True)


def test_features_of_the_last_batch_are_forgotten():
    policy = small_policy("internvl3")
    policy.model.freeze(["vision_tower"])
    videos, counters = encoded(policy), watched(policy)
    clip = random_clip(policy, 0)
    videos.embeds([clip], version=0)
    videos.begin()
    frames(counters)
    videos.embeds([clip], version=0)
    assert frames(counters) == K


@pytest.mark.parametrize("mode", ["interleaved", "pooled", "none"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_features_of_stills_and_videos_of_any_size(backbone, mode):
    """Distinct clips of conversations, and a copy of each video, at once: embeddings and features
    of frozen parts are those of a fresh encode."""
    size = replace(SIZE, motion_mode=mode, num_keyframes=6, num_motion_frames=24)
    for frozen in ((), ("vision_tower", "slowfast")[: 1 if mode == "none" else 2]):
        policy = small_policy(backbone, size=size)
        policy.model.freeze(frozen)
        videos = encoded(policy)
        clips, _ = distinct_clips(conversations(policy))
        clips += [videos.perturbed(clip, "shuffle", 5) for clip in clips if moves(clip)]
        assert len(clips) == 3 + 2
        with torch.no_grad():
            encode = policy.model.model.encode_media
            fresh = [encode(**policy.inputs.media_inputs([clip]))[0] for clip in clips]
            for got in (
                videos.embeds(clips, version=0),
                encode(**videos.media(clips, reference=False)),
                encode(**policy.inputs.media_inputs(clips)),
            ):
                for one, other in zip(got, fresh, strict=True):
                    torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_nothing_is_made_of_prompts_without_media():
    policy = small_policy("qwen2_5_vl")
    videos, backbone = encoded(policy), policy.model.model
    assert videos.embeds([], version=0) == []
    assert backbone.encode_media(**videos.media([], reference=False)) == []
    assert backbone.encode_media(**policy.inputs.media_inputs([])) == []


# Counts of whole training steps


def count_runs(trainer):
    """Independent of the counters: positions of the language model's first layer, by forward."""
    lengths = []
    layer = trainer.core.model.language_model.layers[0]
    layer.register_forward_pre_hook(
        lambda module, args, kwargs: lengths.append(
            tuple((args[0] if args else kwargs["hidden_states"]).shape[:2])
        ),
        with_kwargs=True,
    )
    return lengths


def prompt_lengths(trainer) -> list[int]:
    """Of an even and an odd video (`recorded_trainer` asks them different questions)."""
    inputs = trainer.policy.inputs
    return [
        len(inputs.prompt_ids(*one_clip([random_clip(trainer.policy, i)], question)))
        for i, question in enumerate(QUESTIONS)
    ]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_encodes_k_frames_without_and_k_with_gradient(tmp_path, backbone):
    """β = 0, nothing frozen, perturbed copies of kinds reverse and drop."""
    trainer = make_trainer(tmp_path, backbone, rollout=scripted(backbone=backbone), max_steps=2)
    lengths = count_runs(trainer)
    trainer.train()
    log = trainer.state.log_history[0]
    [asked] = one_clip([random_clip(trainer.policy, 0)])
    prompt = len(trainer.policy.inputs.prompt_ids(asked))
    remainder = log["frames/no_grad"] - NUM_VIDEOS * K
    assert log["frames/grad"] == NUM_VIDEOS * K
    assert 0 <= remainder <= (NUM_VIDEOS * K if keeps_aspect(backbone) else 1)
    assert log["motion_frames/no_grad"] == 2 * NUM_VIDEOS * M  # a copy's motion is another motion
    assert log["motion_frames/grad"] == NUM_VIDEOS * M
    assert log["tokens/train/prompt"] == NUM_VIDEOS * prompt
    assert log["tokens/old/prompt"] == log["tokens/reference/prompt"] == 0
    assert log["tokens/rollout/prompt"] == 2 * NUM_VIDEOS * prompt
    # what really went through the language model: one packed row a group, P - 1 + G·C positions
    (rows, positions), length = lengths[0], log["completions/max_length"]
    assert (rows, positions) == (NUM_VIDEOS, prompt - 1 + GROUP * length)
    assert log["seconds/train"] > 0 and log["flops/train"] > log["flops/encode"] > 0
    assert log["videos/seen"] == NUM_VIDEOS


@pytest.mark.parametrize("backbone", BACKBONES)
def test_frozen_towers_run_once_a_batch_for_everyone(tmp_path, backbone):
    """Old and reference logps, the training forward and a second iteration cost no frame."""
    save_start(backbone, tmp_path)
    frozen = ("vision_tower", "slowfast")
    case = Case(backbone=backbone, dtype=torch.float32, beta=0.04, frozen=frozen, steps=2)
    trainer = recorded_trainer(case, tmp_path, "shared")
    trainer.train()
    first, second = trainer.state.log_history[:2]
    assert first["frames/no_grad"] == NUM_VIDEOS * K
    assert first["motion_frames/no_grad"] == NUM_VIDEOS * M
    assert first["frames/grad"] == first["motion_frames/grad"] == 0
    assert second["frames/no_grad"] == second["frames/grad"] == 0
    prompts = prompt_lengths(trainer)
    for stage in ("reference", "train"):
        assert first[f"tokens/{stage}/prompt"] == NUM_VIDEOS // 2 * sum(prompts), stage
    # the logps of the first update are what the second compares with: no pass of its own
    assert first["tokens/old/prompt"] == second["tokens/old/prompt"] == 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_trained_towers_reference_and_plain_counts(tmp_path, backbone):
    """Shared: K for rollouts and old logps together, K for the reference, K with gradient. Plain: K
    for rollouts, and G·K in each of three passes."""
    save_start(backbone, tmp_path)
    case = Case(backbone=backbone, dtype=torch.float32, beta=0.04, steps=1)
    videos = NUM_VIDEOS * K
    for logprobs, without, with_gradient, share in (
        ("shared", 2 * videos, videos, 1),
        ("plain", videos + 2 * GROUP * videos, GROUP * videos, GROUP),
    ):
        trainer = recorded_trainer(case, tmp_path, logprobs)
        trainer.train()
        log = trainer.state.log_history[0]
        assert (log["frames/no_grad"], log["frames/grad"]) == (without, with_gradient)
        prompts = share * NUM_VIDEOS // 2 * sum(prompt_lengths(trainer))
        assert log["tokens/train/prompt"] == prompts
        assert log["tokens/reference/prompt"] == log["tokens/train/prompt"]
