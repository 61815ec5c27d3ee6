"""vLLM rollouts against the policy's own forward: real engines on the CPU, float32, amplified
weights, so that a wrong position, a stale weight or a stale embedding cannot hide."""

import dataclasses
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from policy_factory import BACKBONES, random_clip, small_policy
from rollout_oracle import clips_of, engine_policy, largest_difference, logprobs_of
from trl import GRPOConfig

from thinker.config import RolloutSettings
from thinker.perturb import perturb_clip
from thinker.policies import load_policy
from thinker.rollout.base import RolloutError, RolloutStartError, Sampling, encode_prompts
from thinker.rollout.build import build_rollout
from thinker.rollout.engine_folder import language_weights, write_engine_folder
from thinker.rollout.hf import hf_rollout
from thinker.rollout.server import generate_body
from thinker.rollout.vllm import ColocatedEngine, EngineResult, VllmRollout, check_installed
from thinker.samples import VideoSample
from thinker.scorer import QualityScorer
from thinker.trainer import ThinkerTrainer, WeightedReward

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")

EXACT = 1e-4
"""The gate is 1e-3; measured 1e-6 to 2e-5."""
SAMPLING = Sampling(max_new_tokens=8)
SETTINGS = RolloutSettings(backend="vllm", timeout_seconds=300.0)


@pytest.fixture(scope="module")
def engines():
    """One engine a backbone. It holds any policy with the same language model's shape, so the
    variants below share it; each pushes its own weights."""
    started = {}

    def engine(backbone):
        if backbone not in started:
            policy = engine_policy(backbone)
            started[backbone] = ColocatedEngine(policy, SETTINGS, max_model_len=2048)
        return started[backbone]

    yield engine
    for engine in started.values():
        engine.close()


def synced(policy, engine):
    rollout = VllmRollout(policy, engine)
    rollout.sync(step=0)
    return rollout


VARIANTS = [
    ("internvl3", {}),
    ("internvl3", {"num_keyframes": 1}),
    ("internvl3", {"num_keyframes": 12, "num_motion_frames": 24}),
    ("internvl3", {"num_keyframes": 6, "motion_mode": "pooled"}),
    ("internvl3", {"motion_mode": "none"}),
    ("qwen2_5_vl", {}),
    ("qwen2_5_vl", {"num_keyframes": 1, "motion_mode": "none"}),
    ("qwen2_5_vl", {"num_keyframes": 7, "motion_mode": "pooled"}),
    ("qwen2_5_vl", {"num_keyframes": 12, "num_motion_frames": 24}),
    ("qwen2_5_vl", {"motion_mode": "none"}),
]


@pytest.mark.parametrize(("backbone", "changes"), VARIANTS, ids=str)
def test_logprobs_equal_the_policys_own_forward(engines, backbone, changes):
    """Two videos (of different frame size where the backbone keeps it) and their perturbed copies
    in one call."""
    policy = engine_policy(backbone, **changes)
    clips = clips_of(policy)
    clips += [perturb_clip(clip, "reverse", seed) for seed, clip in enumerate(clips)]
    requests = encode_prompts(policy, clips)
    groups = synced(policy, engines(backbone)).generate(requests, 3, SAMPLING, seed=1)
    assert [len(group) for group in groups] == [3] * 4
    assert len({tuple(c.token_ids) for group in groups for c in group}) == 12
    assert largest_difference(policy, clips, groups) < EXACT
    if changes != {"num_keyframes": 1, "motion_mode": "none"}:  # one frame has no order
        # and the copies are seen: under the videos' own prompts their completions score differently
        assert largest_difference(policy, [*clips[2:], *clips[:2]], groups) > 100 * EXACT


def test_greedy_answers_equal_those_of_transformers(engines):
    for backbone in BACKBONES:
        policy = engine_policy(backbone)
        requests = encode_prompts(policy, clips_of(policy))
        greedy = Sampling(max_new_tokens=12, temperature=0.0)
        [*ours] = synced(policy, engines(backbone)).generate(requests, 1, greedy, seed=0)
        theirs = hf_rollout(policy).generate(requests, 1, greedy, seed=0)
        assert [g[0].token_ids for g in ours] == [g[0].token_ids for g in theirs]


def test_temperature_and_top_k_are_those_of_the_reported_distribution(engines):
    policy = engine_policy("qwen2_5_vl")
    clips = clips_of(policy)
    rollout = synced(policy, engines("qwen2_5_vl"))
    sampling = Sampling(max_new_tokens=8, temperature=2.0)
    groups = rollout.generate(encode_prompts(policy, clips), 4, sampling, seed=1)
    for clip, group in zip(clips, groups, strict=True):
        for c in group:
            expected = logprobs_of(policy, clip, c.token_ids, temperature=2.0)
            assert torch.allclose(torch.tensor(c.logprobs), expected, atol=EXACT)
    top = dataclasses.replace(SAMPLING, top_k=1)  # one candidate: probability 1
    groups = rollout.generate(encode_prompts(policy, clips), 2, top, seed=1)
    assert all(c.logprobs == [0.0] * 8 for group in groups for c in group)


def test_the_seed_decides_the_completions(engines):
    policy = engine_policy("internvl3")
    rollout = synced(policy, engines("internvl3"))
    requests = encode_prompts(policy, clips_of(policy))
    draw = lambda seed: [  # noqa: E731
        [c.token_ids for c in group] for group in rollout.generate(requests, 3, SAMPLING, seed)
    ]
    first = draw(5)
    assert draw(5) == first
    assert draw(6) != first
    assert len({tuple(ids) for group in first for ids in group}) == 6


def test_placeholders_are_never_drawn_however_likely(engines):
    """Both placeholder ids of Qwen get by far the largest logits; the ban holds, and leaves the
    same distribution on both sides."""
    policy = engine_policy("qwen2_5_vl")
    head = policy.model.lm_head
    with torch.no_grad():
        head.weight[policy.model.placeholder_ids()] = 10 * head.weight.abs().max()
    clips = clips_of(policy)
    rollout = synced(policy, engines("qwen2_5_vl"))
    groups = rollout.generate(encode_prompts(policy, clips), 8, SAMPLING, seed=1)
    drawn = {token for group in groups for c in group for token in c.token_ids}
    assert not drawn & set(policy.model.placeholder_ids())
    assert largest_difference(policy, clips, groups) < EXACT


def test_completions_end_with_the_end_token(engines):
    policy = engine_policy("internvl3")
    engine = engines("internvl3")
    clips = clips_of(policy)
    requests = encode_prompts(policy, clips)
    free = VllmRollout(policy, engine, eos=[])
    free.sync(step=0)
    [group, _] = free.generate(requests, 4, SAMPLING, seed=1)
    stop = group[0].token_ids[3]
    ended = VllmRollout(policy, engine, eos=[stop]).generate(requests, 4, SAMPLING, seed=1)
    for cut, whole in zip(ended[0], group, strict=True):
        end = whole.token_ids.index(stop) + 1 if stop in whole.token_ids else len(whole.token_ids)
        assert cut.token_ids == whole.token_ids[:end]
        assert len(cut.logprobs) == end
    assert len(ended[0][0].token_ids) <= 4


# Weights


def optimise(policy, parts, steps=3):
    """A few steps on the named parts, on the likelihood of fixed tokens: every weight moves."""
    parameters = [p for part in parts for p in policy.model.parts()[part].parameters()]
    if "language_model" in parts:
        parameters += list(policy.model.lm_head.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=0.02)
    clip = clips_of(policy, 1, seed=9)[0]
    prompt = torch.tensor([policy.inputs.prompt_ids(clip)])
    media = policy.inputs.media_inputs([clip])
    positions = policy.model.model.prompt_positions(prompt, torch.ones_like(prompt), media)
    for step in range(steps):
        optimizer.zero_grad()
        output = policy.model(
            input_ids=prompt, position_ids=positions.ids, media_inputs=media, use_cache=False
        )
        output.logits[0, -1].log_softmax(-1)[20 + step].neg().backward()
        optimizer.step()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_exact_after_optimizer_steps_and_a_push_and_not_without(engines, backbone):
    policy = engine_policy(backbone)
    clips = clips_of(policy)
    rollout = synced(policy, engines(backbone))
    rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)  # fills the caches
    optimise(policy, list(policy.model.parts()))
    stale = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, stale) > 100 * EXACT
    figures = rollout.sync(step=3)
    assert figures["probe_logp_difference"] < EXACT
    assert rollout.sync(step=3) == {}  # once a step
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT


@pytest.mark.parametrize("backbone", BACKBONES)
def test_new_embeddings_after_an_update_of_the_towers(engines, backbone):
    """The same videos, prompts and language weights: what the engine cached under the old
    embeddings must not answer."""
    policy = engine_policy(backbone)
    clips = clips_of(policy)
    rollout = synced(policy, engines(backbone))
    old = encode_prompts(policy, clips)
    rollout.generate(old, 2, SAMPLING, seed=1)
    towers = [name for name in policy.model.parts() if name != "language_model"]
    optimise(policy, towers)
    new = encode_prompts(policy, clips)
    assert (new[0].embeds - old[0].embeds).abs().max() > 0.01
    policy.model.model.language_model.requires_grad_(False)
    policy.model.lm_head.requires_grad_(False)
    assert rollout.sync(step=3) == {}  # a frozen language model is not pushed again
    groups = rollout.generate(new, 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT


def test_a_push_that_did_not_arrive_names_the_step(engines, monkeypatch):
    policy = engine_policy("internvl3")
    rollout = synced(policy, engines("internvl3"))
    optimise(policy, ["language_model"], steps=1)
    monkeypatch.setattr(rollout.engine, "push", lambda weights: None)
    with pytest.raises(RolloutError, match=r"step 17: after the weight push .* differ"):
        rollout.sync(step=17)


def test_lora_is_merged_for_the_engine_and_left_alone_in_the_policy(engines):
    policy = engine_policy("qwen2_5_vl")
    config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|down_proj)")
    wrapped = get_peft_model(policy.model, config)
    core = wrapped.get_base_model()
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn_like(parameter))
    policy = dataclasses.replace(policy, model=core)
    before = {name: tensor.clone() for name, tensor in core.state_dict().items()}
    clips = clips_of(policy)
    rollout = synced(policy, engines("qwen2_5_vl"))
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT
    assert all(torch.equal(before[name], tensor) for name, tensor in core.state_dict().items())
    with wrapped.disable_adapter():  # the adapters mattered
        assert largest_difference(policy, clips, groups) > 100 * EXACT


def test_only_the_language_model_is_pushed():
    policy = engine_policy("internvl3")
    names = [name for name, _ in language_weights(policy.model)]
    assert "lm_head.weight" in names and "model.language_model.embed_tokens.weight" in names
    assert all(name.startswith(("model.language_model.", "lm_head.")) for name in names)
    assert not any("lora" in name or name.endswith("lm_head.bias") for name in names)


# What fails


def tied_policy():
    policy = engine_policy("qwen2_5_vl")
    config = policy.model.config
    config.tie_word_embeddings = config.get_text_config().tie_word_embeddings = True
    policy.model.lm_head.weight = policy.model.get_input_embeddings().weight
    return policy


@pytest.fixture(scope="module")
def tied():
    """A policy whose head is its embedding matrix, an engine of its own, and what starting it did
    to the process. The last tests of the module break the engine."""
    policy = tied_policy()
    before = torch.random.get_rng_state(), random.getstate(), torch.set_num_threads
    engine = ColocatedEngine(policy, SETTINGS, max_model_len=1024)
    after = torch.random.get_rng_state(), random.getstate(), torch.set_num_threads
    yield policy, engine, before, after
    engine.close()


def test_a_tied_head_is_exact_before_and_after_training(tied):
    policy, engine, _, _ = tied
    clips = clips_of(policy)
    rollout = synced(policy, engine)
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT
    optimise(policy, ["language_model"])
    rollout.sync(step=3)
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT


def test_starting_an_engine_leaves_the_process_as_it_was(tied):
    """vLLM seeds every random stream and replaces torch.set_num_threads when it starts."""
    _, _, before, after = tied
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_a_prompt_that_does_not_fit_is_refused(tied):
    policy, engine, _, _ = tied
    requests = encode_prompts(policy, clips_of(policy, 1))
    with pytest.raises(ValueError, match="more than the engine's 1024"):
        VllmRollout(policy, engine).generate(requests, 1, Sampling(max_new_tokens=1000), seed=0)


def test_a_prompt_that_the_engine_saw_differently_is_an_error():
    class Other:
        max_model_len = 1024

        def run(self, requests):
            return [
                EngineResult(prompt_token_ids=r.token_ids[1:], completions=[]) for r in requests
            ]

    policy = engine_policy("internvl3")
    requests = encode_prompts(policy, clips_of(policy, 1))
    with pytest.raises(RolloutError, match="differs from the trainer's"):
        VllmRollout(policy, Other()).generate(requests, 1, SAMPLING, seed=0)


def test_an_engine_that_fails_or_hangs_is_a_rollout_error_in_time(tied, monkeypatch):
    policy, engine, _, _ = tied
    rollout = synced(policy, engine)
    requests = encode_prompts(policy, clips_of(policy, 1))
    with monkeypatch.context() as patch:
        patch.setattr(engine._llm.llm_engine, "step", lambda: 1 / 0)
        with pytest.raises(RolloutError, match=r"failed while generating \(ZeroDivisionError"):
            rollout.generate(requests, 1, SAMPLING, seed=0)
    assert rollout.generate(requests, 1, SAMPLING, seed=0)  # nothing of the failure is left over
    released = threading.Event()
    monkeypatch.setattr(engine._llm.llm_engine, "step", lambda: released.wait(60) and [])
    monkeypatch.setattr(engine, "timeout_seconds", 0.2)
    began = time.monotonic()
    with pytest.raises(RolloutError, match=r"generating took more than 0\.2 s"):
        rollout.generate(requests, 1, SAMPLING, seed=0)
    with pytest.raises(RolloutError, match="the engine is lost"):
        rollout.generate(requests, 1, SAMPLING, seed=0)
    assert time.monotonic() - began < 10
    released.set()


def test_auto_falls_back_and_says_why_where_vllm_cannot_run(caplog):
    """Heads of 16 are too narrow for vLLM's attention on a CPU: it starts, and fails at the first
    token."""
    policy = small_policy("internvl3")
    with caplog.at_level("WARNING", logger="thinker"):
        rollout = build_rollout(RolloutSettings(backend="auto"), policy, max_new_tokens=8)
    assert rollout.name == "hf"
    assert "rollouts by transformers (hf): the vLLM engine cannot generate here" in caplog.text
    with pytest.raises(RolloutStartError, match="cannot generate here"):
        build_rollout(SETTINGS, policy, max_new_tokens=8)


def test_auto_takes_vllm_where_it_runs_and_says_so(caplog):
    policy = engine_policy("internvl3")
    with caplog.at_level("INFO", logger="thinker"):
        rollout = build_rollout(RolloutSettings(backend="auto"), policy, max_new_tokens=8)
    try:
        assert rollout.name == "vllm"
        assert "rollouts by vLLM, colocate" in caplog.text
        assert rollout.sync(step=0)["probe_logp_difference"] < EXACT
    finally:
        rollout.close()


def test_a_missing_or_foreign_vllm_is_named(monkeypatch):
    import vllm

    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "vllm", None)
        with pytest.raises(RolloutStartError, match="vLLM cannot be imported"):
            check_installed()
    monkeypatch.setattr(vllm, "__version__", "0.29.1")
    with pytest.raises(RolloutStartError, match=r"vLLM 0\.29\.1 is installed, expected 0\.31"):
        check_installed()


# A server: the request's form here without one, the rest in the slow test below


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_form_sent_to_a_server_gives_the_same_completions(engines, backbone, monkeypatch):
    """`generate_body` as JSON, read back by vLLM's own server code, run by the engine here."""
    policy = engine_policy(backbone)
    requests = encode_prompts(policy, clips_of(policy))
    rollout = synced(policy, engines(backbone))
    direct = rollout.generate(requests, 2, SAMPLING, seed=1)
    monkeypatch.setattr("thinker.rollout.vllm.engine_input", through_json)
    sent = rollout.generate(requests, 2, SAMPLING, seed=1)
    assert [[c.token_ids for c in group] for group in sent] == [
        [c.token_ids for c in group] for group in direct
    ]


def through_json(request):
    from vllm.entrypoints.scale_out.token_in_token_out.mm_features import mm_kwargs_from_features
    from vllm.entrypoints.scale_out.token_in_token_out.protocol import GenerateRequest
    from vllm.inputs import mm_input
    from vllm.multimodal.inputs import MultiModalKwargsItems, PlaceholderRange

    read = GenerateRequest.model_validate_json(json.dumps(generate_body(request)))
    assert read.sampling_params.logit_bias == request.params["logit_bias"]  # not clipped to -100
    ranges = [
        PlaceholderRange(offset=place.offset, length=place.length)
        for place in read.features.mm_placeholders["image"]
    ]
    items = MultiModalKwargsItems(mm_kwargs_from_features(read.features))
    return mm_input(read.token_ids, items, read.features.mm_hashes, {"image": ranges})


def test_a_server_that_is_not_there_is_one_clear_sentence(tmp_path):
    settings = RolloutSettings(
        backend="vllm",
        mode="server",
        server_url="http://127.0.0.1:9",
        sync_folder=str(tmp_path),
    )
    with pytest.raises(RolloutStartError, match=r"no usable vLLM server: http://127.0.0.1:9"):
        build_rollout(settings, engine_policy("internvl3"), max_new_tokens=8)


@pytest.fixture
def serve(tmp_path):
    """Start `vllm serve` with the command of docs/rollouts.md; returns its address and process."""
    processes = []

    def start(policy):
        write_engine_folder(policy, tmp_path / "engine", weights=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        flags = {
            "--host": "127.0.0.1",
            "--port": str(port),
            "--dtype": "float32",
            "--max-model-len": "1024",
            "--limit-mm-per-prompt": '{"image": 0, "video": 0}',
            "--logprobs-mode": "processed_logprobs",
            "--generation-config": "vllm",
            "--mm-processor-cache-gb": "0",
        }
        switches = ["--enable-mm-embeds", "--enable-scale-out", "--enforce-eager"]
        command = [sys.executable, "-m", "vllm.entrypoints.cli.main", "serve"]
        arguments = [str(tmp_path / "engine"), *switches, *sum(flags.items(), ())]
        environment = {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
        with open(tmp_path / "server.log", "w") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                env=os.environ | environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        processes.append(process)
        return f"http://127.0.0.1:{port}", process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_for(url, process, log, seconds=240):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()[-3000:]
        with suppress(OSError), urllib.request.urlopen(url + "/health", timeout=5):
            return
        time.sleep(1)
    pytest.fail("the server did not start: " + log.read_text()[-3000:])


@pytest.mark.slow
def test_a_real_server_generates_takes_weights_and_dies(serve, tmp_path):
    """Over HTTP on the loopback: exact before and after a push through the folder; killed in
    mid-rollout it is a RolloutError."""
    policy = engine_policy("qwen2_5_vl")
    url, process = serve(policy)
    wait_for(url, process, tmp_path / "server.log")
    settings = RolloutSettings(
        backend="vllm",
        mode="server",
        server_url=url,
        sync_folder=str(tmp_path / "weights"),
        timeout_seconds=120.0,
    )
    rollout = build_rollout(settings, policy, max_new_tokens=8)
    clips = clips_of(policy)
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT
    optimise(policy, list(policy.model.parts()))
    assert rollout.sync(step=3)["probe_logp_difference"] < EXACT
    groups = rollout.generate(encode_prompts(policy, clips), 2, SAMPLING, seed=1)
    assert largest_difference(policy, clips, groups) < EXACT
    assert list((tmp_path / "weights").iterdir()) == []  # nothing is left behind
    threading.Timer(0.5, os.killpg, (process.pid, signal.SIGKILL)).start()
    endless = Sampling(max_new_tokens=700)
    with pytest.raises(RolloutError, match="did not answer"):
        VllmRollout(policy, rollout.engine, eos=[]).generate(
            encode_prompts(policy, clips * 8), 8, endless, seed=0
        )


# Training


def trainer_with(policy, tmp_path, rollout, *, lora=False, **grpo):
    policy.save(tmp_path / "start")
    policy = load_policy(tmp_path / "start")
    args = GRPOConfig(
        **{
            "output_dir": str(tmp_path / "run"),
            "num_generations": 2,
            "per_device_train_batch_size": 4,
            "max_completion_length": 8,
            "max_steps": 3,
            "learning_rate": 1e-2,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "bf16": False,
            "gradient_checkpointing": False,
            "use_cpu": True,
            "disable_tqdm": True,
            **grpo,
        }
    )
    Path(args.output_dir).mkdir(parents=True, exist_ok=True)
    samples = [
        VideoSample(
            id=f"demo/{i}",
            dataset="demo",
            path=Path(f"/videos/{i}.mp4"),
            mos=1.0 + i,
            target=1.0 + i,
            content=str(i),
        )
        for i in range(4)
    ]
    peft_config = LoraConfig(r=4, target_modules=r".*language_model.*\.(q_proj|v_proj)")
    return ThinkerTrainer(
        policy=policy,
        args=args,
        rewards=[WeightedReward(reward=LengthOfAnswer())],
        samples=samples,
        read_clip=lambda path: random_clip(policy, int(path.stem)),
        rollout=lambda model: rollout(dataclasses.replace(policy, model=model)),
        perturbations=("reverse",),
        peft_config=peft_config if lora else None,
    )


class LengthOfAnswer:
    """A reward that random completions differ in; it asks for perturbed copies too."""

    name = "length"
    needs_perturbed = True

    def __call__(self, completions, perturbed_completions, **columns):
        assert len(perturbed_completions) == len(completions)
        return [float(len(text)) for text in completions]


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_three_steps_of_training(engines, tmp_path, backbone, lora):
    """Every step pushes, probes and rolls out; the importance ratio between the engine's logprobs
    and the trainer's scoring forward is 1 because they agree."""
    engine = engines(backbone)
    trainer = trainer_with(
        engine_policy(backbone, amplify=1.0),
        tmp_path,
        lambda policy: VllmRollout(policy, engine),
        lora=lora,
        vllm_importance_sampling_correction=True,
    )
    before = {name: tensor.clone() for name, tensor in trainer.core.state_dict().items()}
    trainer.train()
    logs = [log for log in trainer.state.log_history if "loss" in log]
    assert len(logs) == 3
    for log in logs:
        assert log["rollout/probe_logp_difference"] < EXACT
        assert log["sampling/sampling_logp_difference/max"] < 1e-3
        assert log["sampling/importance_sampling_ratio/mean"] == pytest.approx(1.0, abs=1e-3)
    moved = [n for n, t in trainer.core.state_dict().items() if not torch.equal(t, before[n])]
    assert any("language_model" in name for name in moved)


def test_scoring_through_the_engine_equals_transformers(engines):
    policy = engine_policy("internvl3")
    clips = clips_of(policy)
    rollout = synced(policy, engines("internvl3"))
    ours = QualityScorer(policy, rollout, max_new_tokens=12).score_clips(clips)
    theirs = QualityScorer(policy, max_new_tokens=12).score_clips(clips)
    assert [p.completion for p in ours] == [p.completion for p in theirs]


def test_the_scorer_takes_the_backend_by_name():
    policy = engine_policy("internvl3")
    scorer = QualityScorer(policy, backend="vllm", max_new_tokens=12)
    try:
        assert scorer.rollout.name == "vllm"
        clips = clips_of(policy)
        theirs = QualityScorer(policy, backend="hf", max_new_tokens=12).score_clips(clips)
        assert [p.completion for p in scorer.score_clips(clips)] == [p.completion for p in theirs]
    finally:
        scorer.rollout.close()
