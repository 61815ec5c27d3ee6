"""Shared-prompt logps equal those of the plain form, one row a completion, and so does every
gradient."""

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import GptOssConfig, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tests.helpers.exact_precision import rms_norm, use_exact_precision
from tests.helpers.policy_factory import (
    BACKBONES,
    OTHERS,
    SIZE,
    conversations,
    keeps_aspect,
    one_clip,
    random_clip,
    random_still,
    small_policy,
)
from thinker.policies import BACKBONES as REGISTERED
from thinker.policies import Prompt
from thinker.policies.cost import language_flops, linear_flops
from thinker.policies.inputs import distinct_clips
from thinker.policies.shared_prompt import (
    SharedPromptMask,
    check_shared_prompt,
    enable_shared_prompt,
    pack_groups,
)
from thinker.policies.shared_prompt.attention import shared_prompt_attention
from thinker.policies.shared_prompt.last_layer import skipped_parts
from thinker.policies.shared_prompt.merged import can_merge, merged_attention
from thinker.policies.square import internvl3
from thinker.policies.tiny import text_config
from thinker.prompts import ask
from thinker.train.grpo.logprobs import takes_packed_rows
from thinker.utils.tensors import left_pad

GROUP, LENGTH = 3, 5


def batch(policy, prompts=None):
    """Groups with prompts of different length and ragged completions: of two videos each with its
    own question, or of other prompts."""
    if prompts is None:
        questions = ("Why?", "What is the main distortion presented in this video?")
        prompts = [
            prompt
            for seed, question in enumerate(questions)
            for prompt in one_clip([random_clip(policy, seed)], question)
        ]
    rows = [torch.tensor(policy.inputs.prompt_ids(prompt)) for prompt in prompts]
    prompt_ids = left_pad(rows, policy.tokenizer.pad_token_id)
    prompt_mask = left_pad([torch.ones_like(row) for row in rows])
    draw = torch.Generator().manual_seed(7)
    num_rows = len(prompts) * GROUP
    completions = torch.randint(20, 200, (num_rows, LENGTH), generator=draw)
    lengths = torch.tensor([5, 2, 4, 3, 5, 1] * 2)[:num_rows]
    mask = (torch.arange(LENGTH) < lengths.unsqueeze(1)).long()
    return prompts, prompt_ids, prompt_mask, completions, mask


def plain_logps(policy, prompts, prompt_ids, prompt_mask, completions, mask):
    """The oracle: every completion is a row of its own with its own encoding, default attention."""
    backbone = policy.model.model
    repeat = lambda x: x.repeat_interleave(GROUP, dim=0)  # noqa: E731
    clips, rows = [], []
    for prompt in (prompt for prompt in prompts for _ in range(GROUP)):
        rows.append(tuple(range(len(clips), len(clips) + len(prompt.clips))))
        clips += prompt.clips
    media = policy.inputs.media_inputs(clips)
    positions = backbone.prompt_positions(repeat(prompt_ids), repeat(prompt_mask), media, rows)
    tail = positions.next.unsqueeze(1) + torch.arange(LENGTH)
    if positions.ids.dim() == 3:
        tail = tail.expand(3, -1, -1)
    output = policy.model(
        input_ids=torch.cat([repeat(prompt_ids), completions], dim=1),
        attention_mask=torch.cat([repeat(prompt_mask), mask], dim=1),
        position_ids=torch.cat([positions.ids, tail], dim=-1),
        media_inputs=media,
        media_rows=rows,
    )
    logps = output.logits[:, -LENGTH - 1 : -1].log_softmax(-1)
    return logps.gather(-1, completions.unsqueeze(-1)).squeeze(-1)


def shared_logps(policy, prompts, prompt_ids, prompt_mask, completions, mask, **instead):
    """instead: arguments of the forward that replace the right ones."""
    clips, rows = distinct_clips(prompts)
    media = policy.inputs.media_inputs(clips)
    positions = policy.model.model.prompt_positions(prompt_ids, prompt_mask, media, rows)
    packed = pack_groups(prompt_ids, prompt_mask, completions, mask, positions.ids, positions.next)
    arguments = {
        "attention_mask": packed.mask,
        "position_ids": packed.position_ids,
    }
    arguments |= {"media_inputs": media, "media_rows": rows}
    output = policy.model(
        input_ids=packed.input_ids, hidden_from=packed.num_prompt, **arguments | instead
    )
    assert output.logits.shape[1] == GROUP * LENGTH  # the head never sees the prompt
    logps = output.logits.log_softmax(-1)
    labels = packed.labels.clamp(min=0).unsqueeze(-1)
    return logps.gather(-1, labels).squeeze(-1).view(-1, LENGTH)


def gradients(policy, logps, mask):
    weights = torch.linspace(-1, 1, mask.numel(), dtype=logps.dtype).view_as(mask)
    policy.model.zero_grad()
    (logps * weights * mask).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None
    }


def attend_merged(merged, monkeypatch):
    """Attention to prompts by merged.py, and by nothing else; or by copies, as on other devices."""
    module = "thinker.policies.shared_prompt.attention"
    if merged:
        monkeypatch.setattr(f"{module}._kept_as_recipe", None)
    else:
        monkeypatch.setattr(f"{module}.can_merge", lambda query, mask: False)


@pytest.fixture
def exact_norms(monkeypatch):
    use_exact_precision(monkeypatch.setattr)


FORMS = [
    (torch.float64, 1e-10, False, True),
    (torch.float32, 1e-4, False, True),
    (torch.float64, 1e-10, True, True),
    (torch.float64, 1e-10, True, False),
]


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize(
    ("backbone", "dtype", "tolerance", "several", "merged"),
    [(backbone, *form) for backbone in BACKBONES for form in FORMS]
    + [(backbone, *FORMS[2]) for backbone in OTHERS],
)
def test_logps_and_gradients_equal_the_plain_form(
    backbone, dtype, tolerance, several, merged, monkeypatch
):
    """several: conversations with several media, some of which they share, and without any.
    merged: False as on a device without the kernel."""
    attend_merged(merged, monkeypatch)
    policy = small_policy(backbone)
    policy.model.to(dtype).eval()
    inputs = batch(policy, conversations(policy) if several else None)
    mask = inputs[-1]
    plain = plain_logps(policy, *inputs)
    plain_gradients = gradients(policy, plain, mask)
    enable_shared_prompt(policy.model)
    shared = shared_logps(policy, *inputs)
    shared_gradients = gradients(policy, shared, mask)
    scale = plain.abs().max()
    assert ((plain - shared) * mask).abs().max() < tolerance * scale
    assert plain_gradients.keys() == shared_gradients.keys()
    reached = {name.split(".")[1] for name in plain_gradients}
    assert {"language_model", "motion"} <= reached
    assert any("vis" in name for name in plain_gradients)
    for name, gradient in plain_gradients.items():
        difference = (gradient - shared_gradients[name]).abs().max()
        assert difference <= tolerance * gradient.abs().max().clamp(min=1.0), name


@pytest.mark.usefixtures("exact_norms")
@pytest.mark.parametrize("mode", ["interleaved", "pooled"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_clip_that_no_row_shows_gives_every_part_a_gradient_of_zero(backbone, mode):
    """As distributed training needs it of prompts with a still, or without media: logps are the
    same, and the weights that have a gradient are those of prompts with videos."""
    size = replace(SIZE, motion_mode=mode, num_keyframes=6, num_motion_frames=24)
    policy = small_policy(backbone, size=size if mode == "pooled" else SIZE)
    policy.model.double().eval()
    enable_shared_prompt(policy.model)
    inputs = batch(policy)
    video_gradients = gradients(policy, shared_logps(policy, *inputs), inputs[-1])
    still = Prompt(clips=(random_still(policy, 0),), turns=ask("Why?"))
    for prompts, num_clips in (([still], 1), ([Prompt(turns=ask("Why?"))], 0)):
        inputs = batch(policy, prompts)
        clips = policy.inputs.for_every_part(distinct_clips(prompts)[0])
        assert len(clips) == num_clips + 1 and policy.inputs.for_every_part(clips) == clips
        alone = shared_logps(policy, *inputs)
        logps = shared_logps(policy, *inputs, media_inputs=policy.inputs.media_inputs(clips))
        torch.testing.assert_close(logps, alone)
        given, own = gradients(policy, logps, inputs[-1]), gradients(policy, alone, inputs[-1])
        assert given.keys() == video_gradients.keys()
        for name, gradient in given.items():
            expected = own.get(name, torch.zeros_like(gradient))
            torch.testing.assert_close(gradient, expected, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_prompt_rows_need_keys_and_values_only_in_the_last_layer(backbone, monkeypatch):
    """The same log-probabilities to the bit, and FLOPs less by what `language_flops` says."""
    policies = [small_policy(backbone, amplify=1.0) for _ in range(2)]
    enable_shared_prompt(policies[0].model)
    monkeypatch.setattr(
        "thinker.policies.shared_prompt.attention.cut_last_layer", lambda model: None
    )
    enable_shared_prompt(policies[1].model)
    found, flops = [], []
    for policy in policies:
        given = batch(policy)
        with FlopCounterMode(display=False) as counter:
            found.append(shared_logps(policy, *given))
        products = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm)
        counts = counter.get_flop_counts()["Global"]
        flops.append(sum(counts.get(product, 0) for product in products))
    assert torch.equal(*found)
    prompt = given[1].shape[1] - 1
    language = policies[0].model.model.language_model
    spared = sum(map(linear_flops, skipped_parts(language)))
    assert flops[1] - flops[0] == spared * prompt * len(given[0])
    model = policies[0].model
    per_token = language_flops(model, 9, 0, 0) - language_flops(model, 9, 0, 0, unread=1)
    assert per_token == spared > 0


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_wrong_position_or_mask_shows(backbone):
    """The equality above means something: small mistakes move the logps a lot."""
    policy = small_policy(backbone)
    policy.model.double().eval()
    enable_shared_prompt(policy.model)
    prompts, prompt_ids, prompt_mask, completions, mask = batch(policy)
    right = shared_logps(policy, prompts, prompt_ids, prompt_mask, completions, mask)
    no_padding = torch.ones_like(prompt_mask)
    no_padding[prompt_ids == policy.tokenizer.pad_token_id] = 1
    swapped = shared_logps(policy, prompts[::-1], prompt_ids, prompt_mask, completions, mask)
    assert ((right - swapped) * mask).abs().max() > 0.1
    if not keeps_aspect(backbone):  # Qwen's position rule needs the true mask
        unmasked = shared_logps(policy, prompts, prompt_ids, no_padding, completions, mask)
        assert ((right - unmasked) * mask)[:GROUP].abs().max() > 0.01


def test_language_model_without_the_function_fails_loudly():
    policy = small_policy("internvl3")
    with pytest.raises((AttributeError, TypeError)):
        shared_logps(policy, *batch(policy))


def test_dropout_is_refused():
    policy = small_policy("internvl3")
    enable_shared_prompt(policy.model)
    for layer in policy.model.model.language_model.layers:
        layer.self_attn.attention_dropout = 0.1
    policy.model.train()
    with pytest.raises(ValueError, match="attention dropout is"):
        shared_logps(policy, *batch(policy))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize(
    "instead",
    [
        {"attention_mask": None},  # restarting positions look like packed sequences to transformers
        {"attention_mask": "ones"},
        {"position_ids": None},
    ],
    ids=["no_mask", "mask_of_ones", "no_positions"],
)
def test_silent_traps_show(backbone, instead):
    """Left out or of the wrong form, these arguments raise nothing and move the logps: the
    equality tests above would fail."""
    policy = small_policy(backbone)
    policy.model.eval()
    enable_shared_prompt(policy.model)
    inputs = batch(policy)
    mask = inputs[-1]
    right = shared_logps(policy, *inputs)
    if instead.get("attention_mask") == "ones":
        length = inputs[1].shape[1] - 1 + GROUP * LENGTH
        instead = {"attention_mask": torch.ones(2, length, dtype=torch.long)}
    wrong = shared_logps(policy, *inputs, **instead)
    assert ((right - wrong) * mask).abs().max() > 0.01


@pytest.mark.parametrize("backbone", BACKBONES)
def test_switching_back_before_the_backward_pass_fails_loudly(backbone):
    """Reentrant checkpointing looks the attention function up again when it recomputes."""
    policy = small_policy(backbone)
    enable_shared_prompt(policy.model)
    policy.model.gradient_checkpointing_enable({"use_reentrant": True})
    policy.model.enable_input_require_grads()
    policy.model.train()
    logps = shared_logps(policy, *batch(policy))
    policy.model.model.language_model.set_attn_implementation("sdpa")
    with pytest.raises((AttributeError, TypeError)):
        logps.sum().backward()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_bfloat16_is_as_close_to_the_truth_as_the_plain_form(backbone):
    policy = small_policy(backbone, amplify=1.5)
    policy.model.eval()
    inputs = batch(policy)
    mask = inputs[-1]
    truth = plain_logps(policy, *inputs)
    policy.model.to(torch.bfloat16)
    plain = plain_logps(policy, *inputs).float()
    enable_shared_prompt(policy.model)
    shared = shared_logps(policy, *inputs).float()
    error, allowed = (((x - truth) * mask).abs().max() for x in (shared, plain))
    assert 0 < error <= 2 * allowed


def test_pack_groups_worked_example():
    """Prompt [7 8 9], completions [1 2 0] (last padded) and [3 4 5]:

    row  7 8 | 9 1 2 | 9 3 4     positions  0 1 | 2 3 4 | 2 3 4     labels  1 2 - 3 4 5
    """
    packed = pack_groups(
        torch.tensor([[7, 8, 9]]),
        torch.tensor([[1, 1, 1]]),
        torch.tensor([[1, 2, 0], [3, 4, 5]]),
        torch.tensor([[1, 1, 0], [1, 1, 1]]),
        torch.tensor([[0, 1, 2]]),
        torch.tensor([3]),
    )
    assert packed.input_ids.tolist() == [[7, 8, 9, 1, 2, 9, 3, 4]]
    assert packed.position_ids.tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]
    assert packed.labels.tolist() == [[1, 2, -100, 3, 4, 5]]
    assert isinstance(packed.mask, SharedPromptMask)
    assert packed.num_prompt == 2


def attend(num_prompt, group, through=None):
    """Output of the attention function for one group of `group` completions of 8 tokens, and the
    bytes that stay allocated when it is done."""
    length, heads, width = 8, 4, 16
    draw = torch.Generator().manual_seed(0)
    shape = (1, heads, num_prompt + group * length, width)
    inputs = [torch.randn(shape, generator=draw).requires_grad_() for _ in range(3)]
    mask = SharedPromptMask(
        prompt_BP=torch.ones(1, num_prompt, dtype=torch.bool),
        num_completions=group,
        completion_length=length,
    )
    _ = mask.of_prompt, mask.of_completions  # one for all layers, so not counted here
    layer = torch.nn.Module()

    def call(*inputs):
        return shared_prompt_attention(layer, *inputs, mask)[0]

    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        output = through(call, *inputs) if through else call(*inputs)
    kept = sum(event.self_cpu_memory_usage for event in profile.key_averages())
    return output, kept


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_completion_keeps_no_copy_of_the_prompt(mixed, merged, monkeypatch):
    """Memory for the backward pass grows in G by the completions' share only."""
    attend_merged(merged, monkeypatch)

    def bytes_of_two_completions(num_prompt):
        return attend(num_prompt, 4)[1] - attend(num_prompt, 2)[1]

    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        assert bytes_of_two_completions(64) == bytes_of_two_completions(16) > 0


@pytest.mark.parametrize("merged", [False, True])
def test_mixed_precision_is_that_of_plain_attention(merged, monkeypatch):
    """One completion is a row of its own; the same products of the same bfloat16 numbers."""
    attend_merged(merged, monkeypatch)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attend(16, 1)
        draw = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 4, 24, 16, generator=draw) for _ in range(3))
        plain = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert output.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(output.transpose(1, 2), plain, rtol=0, atol=2**-7)


@pytest.mark.parametrize("merged", [False, True])
def test_checkpointing_keeps_nothing_of_the_attention(merged, monkeypatch):
    """The hooks that spare the prompt's copies do not come between."""
    attend_merged(merged, monkeypatch)
    through = partial(
        torch.utils.checkpoint.checkpoint, use_reentrant=False, preserve_rng_state=False
    )
    output, kept = attend(16, 4, through)
    assert kept == output.nbytes
    assert attend(16, 4)[1] > 2 * kept


def test_merged_attention_worked_example():
    """The one of `merged_attention`, and the same beside a prompt that is padded."""
    ones, zeros = torch.ones(2, 1, 1, 1), torch.zeros(2, 1, 1, 1)
    mask = SharedPromptMask(
        prompt_BP=torch.tensor([[True, True], [False, True]]),
        num_completions=1,
        completion_length=1,
    )
    values = torch.tensor([1.0, 3.0]).view(1, 1, 2, 1).expand(2, 1, 2, 1)
    keys = torch.zeros(2, 1, 2, 1)
    assert can_merge(ones, mask)
    output = merged_attention(ones, zeros, 5 * ones, keys, values, mask, None)
    torch.testing.assert_close(output.flatten(), torch.tensor([3.0, 4.0]))


def test_a_group_without_a_prompt_is_not_merged():
    prompt_BP = torch.tensor([[True, True], [False, False]])
    mask = SharedPromptMask(prompt_BP=prompt_BP, num_completions=1, completion_length=1)
    assert not can_merge(torch.ones(2, 1, 1, 1), mask)


def llama_config(size, tokenizer):
    return text_config(size, tokenizer) | {"model_type": "llama"}


@pytest.mark.usefixtures("exact_norms")
def test_a_llama_takes_packed_rows(monkeypatch):
    """It names no kinds of layers, and makes its mask itself."""
    monkeypatch.setattr(LlamaRMSNorm, "forward", rms_norm)
    llama = replace(internvl3.BACKBONE, tiny=partial(internvl3.tiny, language_model=llama_config))
    monkeypatch.setitem(REGISTERED, "llama", llama)
    policy = small_policy("llama")
    assert policy.model.config.text_config.model_type == "llama"
    policy.model.double().eval()
    inputs = batch(policy)
    plain = plain_logps(policy, *inputs)
    enable_shared_prompt(policy.model)
    difference = (plain - shared_logps(policy, *inputs)) * inputs[-1]
    assert difference.abs().max() < 1e-10 * plain.abs().max()


WINDOWS = {"use_sliding_window": True, "sliding_window": 64, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        (LlamaConfig(), None),
        (Qwen2Config(), None),
        (Qwen3Config(**WINDOWS), "sliding_attention"),
        (MistralConfig(sliding_window=64), "sliding_attention"),  # names no kinds
        (GptOssConfig(), "sliding_attention"),  # of the largest InternVL3.5
    ],
    ids=lambda value: getattr(value, "model_type", value),
)
def test_a_language_model_with_windows_gets_plain_rows_by_itself(config, kind, caplog):
    """A window is counted in places of a row, which a packed one has others of."""
    model = SimpleNamespace(config=config)
    assert takes_packed_rows(model, "shared") == (kind is None)
    assert not takes_packed_rows(model, "plain")
    if kind is None:
        assert not caplog.records
        return check_shared_prompt(model)
    assert f"one row a completion: the language model is a {config.model_type} with" in caplog.text
    with pytest.raises(ValueError, match=f"layers of {kind}; packed rows need full_attention"):
        check_shared_prompt(model)
