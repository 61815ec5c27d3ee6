"""Each video is encoded once: features are those of a fresh encode, and the counts are exact."""

import contextlib
import copy as copy_module
import pickle
import time
from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.helpers.logprobs_runs import QUESTIONS, Case, recorded_trainer, save_start
from tests.helpers.policy_factory import BACKBONES, SIZE, random_clip, small_policy
from tests.helpers.trainer_runs import (
    GROUP,
    NUM_VIDEOS,
    ClipsByNumber,
    make_trainer,
    rewards,
    samples,
    scripted,
)
from tests.helpers.video_factory import write_video
from thinker.data.rows import video_dataset
from thinker.policies.encode import encode_prompts
from thinker.train.counters import Counters, ScoredTokens, causal_pairs, counter_names
from thinker.train.grpo.features import VideoFeatureCache, same_part
from thinker.video import FrameCache
from thinker.video.cache import ClipReader
from thinker.video.perturb import PERTURBATIONS, perturb_clip

K, M = SIZE.num_keyframes, SIZE.num_motion_frames
FROZEN = [(), ("vision_tower",), ("slowfast",), ("vision_tower", "slowfast")]


def encoded(policy, reference=None):
    return VideoFeatureCache(policy.inputs, policy.model, reference, contextlib.nullcontext)


def watched(policy) -> Counters:
    counters = Counters()
    counters.watch(policy.model.model)
    return counters


def frames(counters: Counters, grad="no_grad") -> float:
    return counters.take()[f"frames/{grad}"]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_embeddings_of_a_video_and_its_copies_are_those_of_a_fresh_encode(backbone):
    """A copy costs only the slots that its source does not have: none for a reversed InternVL clip,
    one grey frame for a dropped one, every changed pair for Qwen2.5-VL."""
    for frozen in FROZEN:
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
            assert frames(counters) == K + changed_frames(backbone, kind), kind


def changed_frames(backbone: str, kind: str) -> int:
    """Of a clip of two frames (one Qwen slot), by kind: what its source does not hold."""
    if backbone == "qwen2_5_vl":
        return 0 if kind == "identity" else 2
    return 1 if kind == "drop" else 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_dropped_frames_of_all_videos_are_encoded_once(backbone):
    policy = small_policy(backbone)
    videos, counters = encoded(policy), watched(policy)
    clips = [random_clip(policy, seed) for seed in range(3)]
    copies = [videos.perturbed(clip, "drop", seed=1) for clip in clips]
    videos.embeds([*clips, *copies], version=0)
    extra = 1 if backbone == "internvl3" else 3 * 2  # a pair with one dropped frame is a new pair
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
        fresh = encode_prompts(policy, [clip])[0].embeds
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
        len(inputs.prompt_ids(random_clip(trainer.policy, i), q)) for i, q in enumerate(QUESTIONS)
    ]


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_encodes_k_frames_without_and_k_with_gradient(tmp_path, backbone):
    """β = 0, nothing frozen, perturbed copies of kinds reverse and drop."""
    trainer = make_trainer(tmp_path, backbone, rollout=scripted(), max_steps=2)
    lengths = count_runs(trainer)
    trainer.train()
    log = trainer.state.log_history[0]
    prompt = len(trainer.policy.inputs.prompt_ids(random_clip(trainer.policy, 0)))
    remainder = log["frames/no_grad"] - NUM_VIDEOS * K
    assert log["frames/grad"] == NUM_VIDEOS * K
    assert 0 <= remainder <= (1 if backbone == "internvl3" else NUM_VIDEOS * K)
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


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("mode", ["interleaved", "pooled"])
def test_hooks_count_every_frame_of_an_encode(backbone, mode):
    """Two videos through both towers: K keyframes each, and M dense frames, or in mode "pooled" the
    K keyframes once more. FLOPs by PyTorch's own counter, three times that with gradient."""
    size = replace(SIZE, motion_mode=mode, num_keyframes=6, num_motion_frames=24)
    policy = small_policy(backbone, size=size)
    policy.model.set_attn_implementation("eager")  # PyTorch's counter does not know the CPU's fused
    backbone_model = policy.model.model
    media = policy.inputs.media_inputs([random_clip(policy, seed) for seed in range(2)])
    per_video = 24 if mode == "interleaved" else 6
    counters = watched(policy)
    backbone_model.encode_media(**media)  # tries SlowFast on the meta device, for PyTorch's counter
    counters.take()
    for grad in (False, True):
        flops = FlopCounterMode(display=False)
        with torch.set_grad_enabled(grad), counters.stage("train"), flops:
            backbone_model.encode_media(**media)
        name, taken = "grad" if grad else "no_grad", counters.take()
        assert taken[f"frames/{name}"] == 2 * 6
        assert taken[f"motion_frames/{name}"] == 2 * per_video
        assert taken["flops/train"] == flops.get_total_flops() * (3 if grad else 1)
        assert sum(value for key, value in taken.items() if "frames" in key) == 12 + 2 * per_video


@pytest.mark.parametrize("backbone", BACKBONES)
def test_recomputed_layers_add_no_frames(backbone):
    """Gradient checkpointing runs layers of the tower again, not the tower."""
    policy = small_policy(backbone)
    model, counters = policy.model.train(), watched(policy)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    runs = []
    block = policy.model.model.vision_part.get_submodule(
        "encoder.layer.0" if backbone == "internvl3" else "1.0"
    )
    block.register_forward_pre_hook(lambda *_: runs.append(1))
    media = policy.inputs.media_inputs([random_clip(policy, 0)])
    sum(x.sum() for x in model.model.encode_media(**media)).backward()
    assert len(runs) == 2
    taken = counters.take()
    assert taken["frames/grad"] == K and taken["frames/no_grad"] == 0
    assert taken["motion_frames/grad"] == M


def test_a_copy_of_a_watched_model_counts_nothing():
    """Neither a deepcopy nor a pickle of it takes the counters along, and shapes that are tried on
    the meta device pass no tower."""
    policy = small_policy("internvl3")
    backbone = policy.model.model
    plain_size = len(pickle.dumps(backbone.vision_tower))
    counters, media = watched(policy), policy.inputs.media_inputs([random_clip(policy, 0)])
    # A hook that took what it counts for along would bring the whole backbone.
    assert len(pickle.dumps(backbone.vision_tower)) < plain_size + 1000
    with torch.no_grad():
        expected = backbone.encode_media(**media)
        assert frames(counters) == K
        for copy in (copy_module.deepcopy(backbone), pickle.loads(pickle.dumps(backbone))):
            assert torch.equal(copy.encode_media(**media)[0], expected[0])
            assert frames(counters) == 0
        assert torch.equal(backbone.encode_media(**media)[0], expected[0])
        assert frames(counters) == K
        on_meta = {k: v.to("meta") if torch.is_tensor(v) else v for k, v in media.items()}
        backbone.to("meta").encode_media(**on_meta)
    assert frames(counters) == 0


def test_counters_nest_and_each_second_counts_once():
    counters = Counters()
    with counters.stage("train"):
        counters.add("frames/grad", 6)
        with counters.stage("rewards"):
            counters.add_flops(5)
    taken = counters.take()
    assert set(taken) == set(counter_names())
    assert taken["frames/grad"] == 6.0 and taken["flops/rewards"] == 5.0
    assert taken["seconds/train"] > 0 and taken["seconds/rewards"] > 0
    assert counters.take()["frames/grad"] == 0.0
    with pytest.raises(KeyError):
        counters.add("frames", 1)


def test_scored_tokens_by_hand():
    """P = 4 with one padding, G = 2, C = 3, one completion of 2: packed 3 + 6 positions; pairs 6 of
    the prompt, and (3·3 + 6) for each completion."""
    prompt = torch.tensor([[0, 1, 1, 1]])
    completion = torch.tensor([[1, 1, 1], [1, 1, 0]])
    shared = ScoredTokens.shared(prompt, completion, 2)
    assert (shared.prompt, shared.completion, shared.positions) == (3, 5, 9)
    assert shared.pairs == causal_pairs(3) + 2 * (3 * 3 + 6) == 36 and shared.head == 6
    plain = ScoredTokens.plain(torch.cat([prompt.repeat(2, 1), completion], dim=1), 3)
    assert (plain.prompt, plain.completion, plain.positions) == (6, 5, 14)
    assert plain.pairs == 2 * 28 and plain.head == 12


def test_decoded_videos_are_counted_until_the_cache_knows_them(tmp_path):
    """A video is decoded by the first read and never again."""
    policy = small_policy("internvl3")
    path = tmp_path / "video.mp4"
    write_video(path, num_frames=12, width=64, height=64)
    reader = ClipReader(policy.inputs.clip_spec, FrameCache(tmp_path / "cache"))
    dataset = video_dataset([replace(samples(1)[0], path=path)] * 2, reader)
    assert [row["decoded"] for row in dataset.__getitems__([0, 1])] == [True, True]
    assert [row["decoded"] for row in dataset.__getitems__([0, 1])] == [False, False]
    assert ClipReader(policy.inputs.clip_spec).fetch(path)[1]


def test_the_wait_for_the_loader_is_timed(tmp_path):
    """A reader that takes 0.05 s a video shows as waiting, where no worker reads ahead."""
    trainer = make_trainer(tmp_path, rollout=scripted(), reward_list=rewards("regression"))
    quick = ClipsByNumber(trainer.policy)

    def slow(path):
        time.sleep(0.05)
        return quick(path)

    trainer.train_dataset = video_dataset(samples(), slow)
    trainer.train()
    assert trainer.state.log_history[0]["seconds/data"] >= NUM_VIDEOS * 0.05
