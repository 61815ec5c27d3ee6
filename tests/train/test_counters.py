"""Counts of frames, tokens, FLOPs and seconds: by hooks on a watched model, and by hand."""

import copy as copy_module
import pickle
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers.modeling_layers import GradientCheckpointingLayer

from tests.helpers.counted import frames, watched
from tests.helpers.policy_factory import BACKBONES, SIZE, random_clip, small_policy
from tests.helpers.trainer_runs import (
    NUM_VIDEOS,
    ClipsByNumber,
    make_trainer,
    rewards,
    samples,
    scripted,
)
from tests.helpers.video_factory import write_video
from thinker.data.rows import example_dataset
from thinker.policies.cost import causal_pairs
from thinker.train.counters import Counters, LogprobTokens, counter_names
from thinker.utils.tensors import to_device
from thinker.video import FrameCache
from thinker.video.cache import ClipReader
from thinker.video.medium import medium

K, M = SIZE.num_keyframes, SIZE.num_motion_frames


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
    layers = policy.model.model.vision_part.modules()
    block = next(layer for layer in layers if isinstance(layer, GradientCheckpointingLayer))
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
        backbone.to("meta").encode_media(**to_device(media, "meta"))
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


def test_a_straggler_stands_out_against_the_mean():
    """Of two processes, the second of which took and counted three times as much."""
    counters = Counters()
    with counters.stage("train"):
        time.sleep(0.01)
    counters.add("videos/seen", 2)
    both = SimpleNamespace(device="cpu", gather=lambda own: torch.cat([own, 3 * own]))
    taken = counters.take_step(both)
    assert set(taken) == set(counter_names())
    assert taken["seconds/train"] >= 2 * 0.01
    assert taken["seconds_max/train"] == pytest.approx(1.5 * taken["seconds/train"])
    assert taken["videos/seen"] == 2 + 6


def test_scored_tokens_by_hand():
    """P = 4 with one padding, G = 2, C = 3, one completion of 2: packed 3 + 6 positions; pairs 6 of
    the prompt, and (3·3 + 6) for each completion."""
    prompt = torch.tensor([[0, 1, 1, 1]])
    completion = torch.tensor([[1, 1, 1], [1, 1, 0]])
    shared = LogprobTokens.shared(prompt, completion, 2)
    assert (shared.prompt, shared.completion, shared.positions) == (3, 5, 9)
    assert shared.pairs == causal_pairs(3) + 2 * (3 * 3 + 6) == 36 and shared.head == 6
    plain = LogprobTokens.plain(torch.cat([prompt.repeat(2, 1), completion], dim=1), 3)
    assert (plain.prompt, plain.completion, plain.positions) == (6, 5, 14)
    assert plain.pairs == 2 * 28 and plain.head == 12


def test_decoded_videos_are_counted_until_the_cache_knows_them(tmp_path):
    """A video is decoded by the first read and never again."""
    policy = small_policy("internvl3")
    path = tmp_path / "video.mp4"
    write_video(path, num_frames=12, width=64, height=64)
    reader = ClipReader(policy.inputs.clip_spec, FrameCache(tmp_path / "cache"))
    dataset = example_dataset([replace(samples(1)[0], media=(medium(path),))] * 2, reader)
    first, again = (dataset.__getitems__([0, 1]) for _ in range(2))
    assert [row["decoded"] for row in first] == [(True,), (True,)]
    assert [row["decoded"] for row in again] == [(False,), (False,)]
    [[seconds], [same]] = [row["decode_seconds"] for row in first]
    assert seconds == same > 0  # one medium, read once a batch
    assert [row["decode_seconds"] for row in again] == [(0.0,), (0.0,)]
    assert ClipReader(policy.inputs.clip_spec).fetch(path)[1]


def test_the_wait_for_the_loader_is_timed(tmp_path):
    """A reader that takes 0.05 s a video shows as waiting, where no worker reads ahead."""
    trainer = make_trainer(tmp_path, rollout=scripted(), reward_list=rewards("regression"))
    quick = ClipsByNumber(trainer.policy)

    def slow(path):
        time.sleep(0.05)
        return quick(path)

    trainer.train_dataset = example_dataset(samples(), slow)
    trainer.train()
    assert trainer.state.log_history[0]["seconds/data"] >= NUM_VIDEOS * 0.05
