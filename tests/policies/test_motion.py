"""SlowFast and the motion encoder against an independent float64 forward written from parameter
names, against arithmetic by hand, and (where pytorchvideo is importable) against pytorchvideo."""

import importlib
import json
import sys
import types

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, PreTrainedModel

from tests.helpers.motion_oracle import oracle, randomise
from thinker.policies.motion import (
    MotionConfig,
    MotionEncoder,
    SlowFast,
    SlowFastConfig,
    init_motion_weights,
    num_slow_frames,
    read_slowfast_checkpoint,
)
from thinker.policies.motion.encoder import pooled_slow_indices, segment_means, window_weights

TINY = SlowFastConfig(depths=(1, 2, 1, 1), slow_width=4, beta_inv=2)  # fast stem: 2 channels
# The names that a checkpoint's head has; it is not part of SlowFast here.
HEAD = {"blocks.6.proj.weight": torch.zeros(400, 2304), "blocks.6.proj.bias": torch.zeros(400)}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Tensors this small lose by being split."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def slowfast(config=TINY, pathways="both", dtype=torch.float64) -> SlowFast:
    network = SlowFast(config, pathways=pathways)
    randomise(network)
    return network.to(dtype)


def frames_of(*shape, seed=0, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def uint8_frames(*shape, seed=0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def interleaved_config(**changes) -> MotionConfig:
    values = dict(
        slowfast=TINY,
        hidden_size=12,
        num_keyframes=2,
        num_motion_frames=8,
        motion_px=32,
        tokens_per_frame=2,
        max_positions=8,
    )
    return MotionConfig(**(values | changes))


def pooled_config(**changes) -> MotionConfig:
    values = dict(mode="pooled", slowfast=TINY, hidden_size=12, num_keyframes=6)
    return MotionConfig(**(values | changes))


def encoder(config: MotionConfig, dtype=torch.float64) -> MotionEncoder:
    made = MotionEncoder(config)
    randomise(made)
    return made.to(dtype)


# An independent SlowFast: only the state dict, key by key, and the paper's Table 1.


@pytest.mark.parametrize(("num_fast", "num_slow", "px"), [(8, 2, 48), (6, 2, 33)])
def test_slowfast_equals_the_forward_written_from_names(num_fast, num_slow, px):
    network = slowfast()
    fast, slow = frames_of(2, 3, num_fast, px, px), frames_of(2, 3, num_slow, px, px, seed=1)
    outputs = network(fast, slow)[::-1]
    side = -(-px // 32)
    assert outputs[0].shape == (2, 128, num_slow, side, side)  # 32 * 4 channels
    assert outputs[1].shape == (2, 64, num_fast, side, side)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    leaves = {name: state[name].requires_grad_() for name, _ in network.named_parameters()}
    expected = oracle(state, slow, fast, TINY.depths)
    sum(output.square().sum() for output in outputs).backward()
    sum(output.square().sum() for output in expected).backward()
    for own, reference in zip(outputs, expected, strict=True):
        assert reference.std() > 0.1  # a dead network would agree with anything
        assert (own - reference).abs().max() < 1e-10
    for name, parameter in network.named_parameters():
        reference = leaves[name].grad
        assert reference.abs().max() > 0, name
        assert (parameter.grad - reference).abs().max() < 1e-10 * reference.abs().max(), name


def test_r50_has_the_names_shapes_and_counts_of_the_public_checkpoint():
    with torch.device("meta"):
        both = SlowFast(SlowFastConfig())
        fast = SlowFast(SlowFastConfig(), pathways="fast")
    shapes = {name: tuple(value.shape) for name, value in both.state_dict().items()}
    # Printed from pytorchvideo 0.1.5: 660 names without the head; 34,566,488 parameters, of which
    # the head's 400 * 2304 + 400 are not ours.
    assert len(shapes) == 660
    assert sum(p.numel() for p in both.parameters()) == 34_566_488 - 922_000 == 33_644_488
    assert sum(p.numel() for p in fast.parameters()) == 514_152
    block = "multipathway_blocks.{}.res_blocks.{}"
    golden = {
        "blocks.0.multipathway_blocks.0.conv.weight": (64, 3, 1, 7, 7),
        "blocks.0.multipathway_blocks.1.conv.weight": (8, 3, 5, 7, 7),
        "blocks.0.multipathway_blocks.1.norm.running_var": (8,),
        "blocks.0.multipathway_fusion.conv_fast_to_slow.weight": (16, 8, 7, 1, 1),
        "blocks.0.multipathway_fusion.norm.num_batches_tracked": (),
        f"blocks.1.{block.format(0, 0)}.branch1_conv.weight": (256, 80, 1, 1, 1),
        f"blocks.1.{block.format(0, 0)}.branch1_norm.bias": (256,),
        f"blocks.1.{block.format(1, 2)}.branch2.conv_a.weight": (8, 32, 3, 1, 1),
        f"blocks.2.{block.format(0, 3)}.branch2.conv_a.weight": (128, 512, 1, 1, 1),
        f"blocks.3.{block.format(0, 5)}.branch2.conv_a.weight": (256, 1024, 3, 1, 1),
        f"blocks.4.{block.format(0, 0)}.branch1_conv.weight": (2048, 1280, 1, 1, 1),
        f"blocks.4.{block.format(0, 2)}.branch2.conv_b.weight": (512, 512, 1, 3, 3),
        f"blocks.4.{block.format(1, 2)}.branch2.norm_c.weight": (256,),
    }
    assert {name: shapes.get(name) for name in golden} == golden
    assert not any("blocks.4.multipathway_fusion" in name for name in shapes)
    slow_names = ("multipathway_blocks.0.", "multipathway_fusion.")
    without_slow = [name for name in shapes if not any(part in name for part in slow_names)]
    assert list(fast.state_dict()) == without_slow
    assert (SlowFastConfig().slow_channels, SlowFastConfig().fast_channels) == (2048, 256)


def test_fast_features_do_not_need_the_slow_pathway():
    both, fast = slowfast(dtype=torch.float32), slowfast(pathways="fast", dtype=torch.float32)
    discarded = fast.load_public_state_dict(both.state_dict() | HEAD)
    assert set(discarded) == (set(both.state_dict()) | set(HEAD)) - set(fast.state_dict())
    clip = frames_of(2, 3, 8, 40, 40, dtype=torch.float32)
    with torch.no_grad():
        full = both(clip, clip[:, :, ::4])[0]
        for network in (both, fast):
            features, slow = network(clip)
            assert torch.equal(features, full) and slow is None
        counts = []
        for network in (both, fast):
            with FlopCounterMode(display=False) as counter:
                network(clip)
            counts.append(counter.get_total_flops())
        assert counts[0] == counts[1] > 0  # nothing of the slow pathway is computed
    with pytest.raises(ValueError, match="expected only fast ones"):
        fast(clip, clip[:, :, ::4])


def test_slow_and_fast_lengths_must_fit():
    assert [num_slow_frames(n) for n in (1, 4, 6, 12, 32)] == [1, 1, 2, 3, 8]
    with pytest.raises(ValueError, match="3 slow frames do not fit 8 fast frames, expected 2"):
        slowfast()(frames_of(1, 3, 8, 32, 32), frames_of(1, 3, 3, 32, 32))


# Checkpoints


@pytest.mark.parametrize("form", ["safetensors", "plain.pt", "public.pyth"])
def test_loads_a_public_checkpoint_by_name(tmp_path, form):
    source = slowfast(dtype=torch.float32)
    # Old PyTorch saved no counters.
    state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k} | HEAD
    path = tmp_path / f"slowfast.{form}"
    if form == "safetensors":
        save_file(state, path)
    else:
        torch.save({"model_state": state, "epoch": 196} if "pyth" in form else state, path)
    target = MotionEncoder(pooled_config())
    assert target.load_slowfast_checkpoint(path) == tuple(sorted(HEAD))
    for name, value in source.state_dict().items():
        assert torch.equal(target.slowfast.state_dict()[name], value), name


def test_a_wrong_checkpoint_lists_every_problem_and_loads_nothing():
    state = dict(slowfast(dtype=torch.float32).state_dict())
    missing, reshaped = (
        "blocks.1.multipathway_fusion.norm.bias",
        "blocks.0.multipathway_blocks.0.conv.weight",
    )
    del state[missing]
    state[reshaped] = torch.zeros(5, 3, 1, 7, 7)
    state["blocks.7.proj.weight"] = torch.zeros(1)
    target = SlowFast(TINY)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    with pytest.raises(ValueError) as error:
        target.load_public_state_dict(state)
    lines = str(error.value).splitlines()[1:]
    assert lines == [
        f"missing: {missing}",
        "unexpected: blocks.7.proj.weight",
        f"shape of {reshaped}: (5, 3, 1, 7, 7), expected (4, 3, 1, 7, 7)",
    ]
    for name, value in target.state_dict().items():
        assert torch.equal(value, before[name])


def test_files_that_are_no_checkpoint(tmp_path):
    with pytest.raises(ValueError, match="safetensors"):
        read_slowfast_checkpoint(tmp_path / "slowfast.pkl")
    torch.save({"model_state": {"epoch": 3}}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="names to tensors"):
        read_slowfast_checkpoint(tmp_path / "a.pth")


# Mode "interleaved"


def test_interleaved_tokens_equal_the_arithmetic_of_the_docstring():
    config = interleaved_config()
    made = encoder(config)
    frames = uint8_frames(3, 8, 3, 32, 32)
    tokens = made(frames)
    assert tokens.shape == (3, 2, 2, 12)
    state = made.slowfast.state_dict()
    first, last = made.projector[0], made.projector[2]
    for b in range(3):
        for k in range(2):
            clip = (frames[b, 4 * k : 4 * k + 4].double() / 255 - 0.5) / 0.5
            zeros = torch.zeros(1, 3, 1, 32, 32, dtype=torch.float64)
            # Slow weights do not exist here; the oracle's fast path needs none of them.
            features = fast_oracle(state, clip.transpose(0, 1)[None], zeros)
            for i in range(2):  # token 0: frames 0 and 1 of the window; token 1: frames 2 and 3
                moments = features[0, :, 2 * i : 2 * i + 2].mean(dim=(2, 3))
                mean, deviation = moments.mean(dim=1), moments.std(dim=1, correction=0)
                raw = torch.cat([mean, deviation.clamp(min=1e-3)])
                norm = made.standardise
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                standard = (raw - norm.running_mean) * scale + norm.bias
                position = made.position_embedding.weight[2 * k + i]
                hidden = F.gelu(first.weight @ (standard + position) + first.bias)
                expected = last.weight @ hidden + last.bias
                assert (tokens[b, k, i] - expected).abs().max() < 1e-10


def fast_oracle(fast_state, fast, slow):
    """The oracle's fast features, with a slow pathway filled in that cannot matter."""
    state = SlowFast(TINY).double().state_dict() | fast_state
    return oracle(state, slow, fast, TINY.depths)[1]


def test_a_window_is_a_clip_of_its_own():
    made = encoder(interleaved_config(num_keyframes=3, num_motion_frames=12))
    frames = uint8_frames(1, 12, 3, 32, 32)
    changed = frames.clone()
    changed[0, 4:8] = uint8_frames(4, 3, 32, 32, seed=1)
    difference = (made(frames) - made(changed)).abs().amax(dim=(0, 2, 3))
    assert difference[0] == difference[2] == 0
    assert difference[1] > 1e-6


def test_segment_means():
    # (1 + 3) / 2 = 2, (5 + 7) / 2 = 6
    values = torch.tensor([[[1.0, 3.0, 5.0, 7.0]]])
    assert segment_means(values, 2).tolist() == [[[2.0, 6.0]]]


def test_other_numbers_of_windows_are_fine_up_to_the_positions():
    made = encoder(interleaved_config())  # windows of 4 frames, 2 tokens each, 8 positions
    assert made(uint8_frames(1, 16, 3, 32, 32)).shape == (1, 4, 2, 12)
    with pytest.raises(ValueError, match="need 10 positions, max_positions is 8"):
        made(uint8_frames(1, 20, 3, 32, 32))
    with pytest.raises(ValueError, match="multiple of the 4 frames"):
        made(uint8_frames(1, 9, 3, 32, 32))
    with pytest.raises(ValueError, match="expected motion_px 32"):
        made(uint8_frames(1, 8, 3, 64, 64))
    with pytest.raises(ValueError, match=r"expected \(B, frames, 3, H, W\)"):
        made(uint8_frames(1, 8, 32, 32, 3))
    with pytest.raises(ValueError, match=r"torch.int64"):
        made(uint8_frames(1, 8, 3, 32, 32).long())


# Mode "pooled"


def test_window_weights():
    # Windows 01, 12, 23: positions 0 and 3 are in one, 1 and 2 in two; six in all.
    assert window_weights(4, 2).tolist() == [1 / 6, 2 / 6, 2 / 6, 1 / 6]
    assert window_weights(3, 3).tolist() == [1 / 3] * 3


@pytest.mark.parametrize(
    ("num_keyframes", "divisor", "repeats", "slow_indices"),
    [(6, 3, 6, [0, 5]), (12, 4, 4, [0, 5, 11])],  # released training and inference code
)
def test_pooled_token_follows_the_released_rules(num_keyframes, divisor, repeats, slow_indices):
    assert pooled_slow_indices(num_keyframes, divisor) == slow_indices
    config = pooled_config(num_keyframes=num_keyframes, slow_divisor=divisor, pool_repeats=repeats)
    made = encoder(config)
    frames = uint8_frames(1, num_keyframes, 3, 225, 193)  # feature maps of 8 x 7
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(3, 1, 1)
    std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(3, 1, 1)
    normalised = (frames.double() / 255 - mean) / std
    fast = normalised.transpose(1, 2)
    features = oracle(made.slowfast.state_dict(), fast[:, :, slow_indices], fast, TINY.depths)
    pooled = []
    for feature, kernel in zip(features, (8, 32), strict=True):
        repeated = feature.repeat_interleave(repeats, dim=2)
        windows = F.avg_pool3d(repeated, (kernel, 7, 7), stride=1)
        pooled.append(F.adaptive_avg_pool3d(windows, 1).flatten(1))
    vector = torch.cat(pooled, 1)[0]
    assert vector.shape == (128 + 64,)
    vector = (vector - vector.mean()) / (vector.var(unbiased=False) + 1e-5).sqrt()
    norm, first, last = made.projector[0], made.projector[1], made.projector[3]
    vector = norm.weight * vector + norm.bias
    expected = last.weight @ F.gelu(first.weight @ vector + first.bias) + last.bias
    tokens = made(frames)
    assert tokens.shape == (1, 1, 12)
    assert (tokens[0, 0] - expected).abs().max() < 1e-10
    # Normalised frames, as InternVL's vision tower gets them, are taken as they are.
    assert (made(normalised) - tokens).abs().max() < 1e-12


def test_pooling_windows_shrink_to_small_maps():
    """A 2 x 2 map is averaged plainly; in time the window of 32 slides over 6 * 6 features."""
    made = encoder(pooled_config())
    frames = frames_of(1, 6, 3, 64, 64)
    fast = made.slowfast(frames.transpose(1, 2))[0].mean(dim=(3, 4))
    windows = F.avg_pool1d(fast.repeat_interleave(6, dim=2), 32, stride=1)
    features = made.pooled_features(frames)
    assert features.shape == (1, 128 + 64)
    assert (features[:, 128:] - windows.mean(dim=2)).abs().max() < 1e-12


# Training


@pytest.mark.parametrize("config", [interleaved_config(), pooled_config()], ids=lambda c: c.mode)
@pytest.mark.parametrize("frozen", [True, False])
def test_training_never_moves_batchnorm_statistics(config, frozen):
    made = encoder(config, torch.float32)
    if frozen:
        made.slowfast.requires_grad_(False)
    parent = nn.ModuleDict({"motion": made}).train()  # as a policy's train() reaches it
    before = {name: value.clone() for name, value in made.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in made.parameters() if p.requires_grad], lr=0.1)
    length = config.num_motion_frames if config.mode == "interleaved" else 6
    for step in range(3):
        optimizer.zero_grad()
        made(uint8_frames(2, length, 3, 32, 32, seed=step)).square().sum().backward()
        optimizer.step()
    assert parent.training and not made.slowfast.training
    trainable = {name for name, p in made.named_parameters() if p.requires_grad}
    assert any(name.startswith("slowfast.") for name in trainable) == (not frozen)
    for name, value in made.state_dict().items():
        # Every trainable tensor moved, nothing else did.
        assert torch.equal(value, before[name]) == (name not in trainable), name
    for name, parameter in made.named_parameters():
        assert (parameter.grad is not None) == (name in trainable), name


def test_a_video_does_not_depend_on_its_batch_even_in_training():
    made = encoder(interleaved_config()).train()
    frames = uint8_frames(3, 8, 3, 32, 32)
    alone = torch.cat([made(frames[b : b + 1]) for b in range(3)])
    assert (made(frames) - alone).abs().max() < 1e-12


# Weights and types


def test_initial_weights():
    for config in (interleaved_config(hidden_size=64), pooled_config(hidden_size=64)):
        made, other = MotionEncoder(config), MotionEncoder(config)
        randomise(made)  # every value of it must be overwritten
        for network in (made, other):
            torch.manual_seed(2)
            init_motion_weights(network)
        for (name, value), expected in zip(
            made.state_dict().items(), other.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected), name
        assert all(not p.any() for n, p in made.named_parameters() if n.endswith("bias"))
        weight = made.projector[-1].weight
        if config.mode == "pooled":
            # U(0, 0.01) has mean 0.005; 64 * 64 draws put the estimate within 0.0002.
            assert weight.min() >= 0 and 0.009 < weight.max() <= 0.01
            assert abs(weight.mean() - 0.005) < 0.0002
        else:
            assert abs(weight.std() - 0.02) < 0.001
            assert abs(made.position_embedding.weight.std() - 0.02) < 0.003
        conv = made.slowfast.blocks[4].multipathway_blocks["1"].res_blocks[0].branch1_conv
        # He normal, fan out: std = sqrt(2 / 64 channels) = 0.1768
        assert abs(conv.weight.std() - 0.1768) < 0.015
        for part in made.slowfast.modules():
            if isinstance(part, nn.BatchNorm3d):
                assert (part.weight == 1).all() and (part.running_var == 1).all()
                assert not part.running_mean.any()


class HostConfig(PreTrainedConfig):
    model_type = "motion_test_host"
    motion_config: dict | None = None


class Host(PreTrainedModel):
    config_class = HostConfig
    base_model_prefix = "host"

    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Linear(2, 2)
        self.motion = MotionEncoder(MotionConfig.from_dict(config.motion_config))
        self.post_init()

    def _init_weights(self, module):
        super()._init_weights(module)
        init_motion_weights(module)


@pytest.mark.parametrize("make_config", [interleaved_config, pooled_config])
def test_lives_in_a_pretrained_model(tmp_path, make_config):
    """Round trip through save_pretrained; parts that the checkpoint lacks get our initial weights,
    also after construction on the meta device, and loaded parts stay untouched."""
    made = Host(HostConfig(motion_config=make_config(hidden_size=64).to_dict()))
    randomise(made)
    made.save_pretrained(tmp_path)
    loaded = Host.from_pretrained(tmp_path)
    for name, value in made.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert loaded.motion.config == make_config(hidden_size=64)

    file = tmp_path / "model.safetensors"
    kept = {k: v for k, v in load_file(file).items() if not k.startswith("motion.projector")}
    norms = [k for k in kept if "blocks.2" in k and "norm_c" in k]
    for name in norms:
        del kept[name]
    save_file(kept, file, metadata={"format": "pt"})
    partial = Host.from_pretrained(tmp_path).state_dict()
    for name in kept:
        assert torch.equal(partial[name], made.state_dict()[name]), name
    for name in norms:
        expected = 1 if name.endswith(("norm_c.weight", "running_var")) else 0
        assert (partial[name] == expected).all(), name
    for name in (n for n in partial if n.startswith("motion.projector") and n.endswith("weight")):
        if make_config is interleaved_config:
            assert 0.015 < partial[name].std() < 0.025, name
        elif "projector.0" not in name:  # 0 is the LayerNorm
            assert partial[name].min() >= 0 and 0.009 < partial[name].max() <= 0.01, name


@pytest.mark.parametrize("config", [interleaved_config(), pooled_config()], ids=lambda c: c.mode)
def test_types(config):
    length = config.num_motion_frames if config.mode == "interleaved" else 6
    frames = uint8_frames(2, length, 3, 32, 32)
    exact = encoder(config)(frames)
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 0.05)):
        tokens = encoder(config, dtype)(frames)
        assert tokens.dtype == dtype
        assert (tokens.double() - exact).abs().max() < tolerance * exact.abs().max()


# Configuration


def test_configuration_keys_are_frozen():
    assert json.loads(json.dumps(MotionConfig().to_dict())) == {
        "mode": "interleaved",
        "slowfast": {"depths": [3, 4, 6, 3], "slow_width": 64, "beta_inv": 8},
        "hidden_size": 3584,
        "num_keyframes": 8,
        "image_mean": None,
        "image_std": None,
        "num_motion_frames": 128,
        "motion_px": 192,
        "tokens_per_frame": 4,
        "max_positions": 2000,
        "slow_divisor": 3,
        "pool_repeats": 6,
        "twice": False,
    }


@pytest.mark.parametrize("mode", ["interleaved", "pooled", "none"])
def test_configuration_survives_json(mode):
    config = MotionConfig(
        mode=mode, slowfast=TINY, num_keyframes=6, num_motion_frames=24, tokens_per_frame=2,
        image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6),
    )  # fmt: skip
    assert MotionConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.mean_std == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_default_normalisation():
    assert MotionConfig().mean_std == ((0.5,) * 3, (0.5,) * 3)
    assert pooled_config().mean_std == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (dict(mode="dense"), "'dense', expected one of interleaved, pooled, frames"),
        (dict(num_motion_frames=100), "100, expected a multiple of num_keyframes"),
        (dict(tokens_per_frame=3), "3, expected a divisor of the 16 frames"),
        (dict(max_positions=31), "need 32 positions, max_positions is 31"),
        (dict(motion_px=0), "motion_px is 0"),
        (dict(hidden_size=2.5), "hidden_size is 2.5, expected a valid integer"),
        (dict(num_keyframes=True), "num_keyframes is True, expected a valid integer"),
        (dict(image_mean=(0.5, 0.5, 0.5)), "belong together"),
        (dict(image_mean=(0.5,), image_std=(0.5,)), "motion_config: image_mean.1 is missing"),
        (dict(image_mean=[0.5] * 4, image_std=[0.5] * 3), "at most 3 items .*, not 4"),
        # K = 8: 8 // 3 = 2 slow frames, lateral connections make ceil(8 / 4) = 2; 2 * 3 < 8
        (dict(mode="pooled", pool_repeats=3), "2 features in time, each repeated 3 times"),
        (dict(mode="pooled", num_keyframes=9), None),  # 9 // 3 = 3 = ceil(9 / 4)
        (dict(mode="pooled", num_keyframes=12), "give 4 slow frames, .* need 3"),
        (dict(slowfast=dict(depth=50)), "unknown key 'slowfast.depth'; did you mean 'depths'"),
        (dict(slowfast=dict(depths=(3, 4, 6))), "slowfast.depths.3 is missing"),
        (dict(slowfast=dict(slow_width=10)), "a multiple of the second"),
        (dict(motion_frames=3), "unknown key 'motion_frames'; did you mean 'num_motion_frames'"),
    ],
)
def test_configuration_errors(values, message):
    if message is None:
        MotionConfig.from_dict(values)
        return
    with pytest.raises(ValueError, match=message):
        MotionConfig.from_dict(values)


def test_mode_none_has_no_encoder():
    with pytest.raises(ValueError, match="no motion encoder"):
        MotionEncoder(MotionConfig(mode="none"))


# Development only


def test_r50_equals_pytorchvideo(monkeypatch):
    """The full R50 against its source; runs where pytorchvideo and fvcore are on the path."""
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    operators = types.ModuleType("torchvision.ops")
    operators.RoIAlign = None  # the detection head's, unused here
    monkeypatch.setitem(sys.modules, "torchvision.ops", operators)
    try:
        builder = importlib.import_module("pytorchvideo.models.slowfast")
    except ImportError as error:
        pytest.skip(f"pytorchvideo 0.1.5 is a development-only reference: {error}")
    reference = builder.create_slowfast(slowfast_fusion_conv_kernel_size=(7, 1, 1)).eval()
    randomise(reference)
    own = SlowFast(SlowFastConfig())
    assert own.load_public_state_dict(reference.state_dict()) == tuple(sorted(HEAD))
    fast = frames_of(1, 3, 32, 64, 64, dtype=torch.float32)
    expected, features = [fast[:, :, ::4], fast], (fast[:, :, ::4], fast)
    with torch.no_grad():
        for i in range(5):
            expected = reference.blocks[i](list(expected))
            features = own.blocks[i](*features[::-1])[::-1]
            for got, wanted in zip(features, expected, strict=True):
                assert got.shape == wanted.shape and wanted.std() > 0.1
                assert (got - wanted).abs().max() < 1e-5 * wanted.abs().max()
