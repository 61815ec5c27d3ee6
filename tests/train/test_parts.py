"""Parts and their learning rates, in the optimizer that transformers makes."""

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from tests.helpers.policy_factory import BACKBONES, small_policy
from thinker.config.run import PARTS, LoraSettings, SftStage, SourceSettings
from thinker.policies.adapters import merge_lora
from thinker.train.parts import (
    freeze_others,
    lora_config,
    split_by_part,
    trained_parameters,
    with_lora,
)
from thinker.train.resume import Resumable

RATES = {
    "vision_tower": 1e-3, "vision_projector": 2e-3, "slowfast": 3e-3, "motion_projector": 4e-3,
    "language_model": 5e-3,
}  # fmt: skip


class Host(Resumable, Trainer):
    """What both trainers are of this module's business."""


def optimizer_of(model, core, rates, tmp_path, **settings):
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], optim="sgd", **settings
    )
    host = Host(model=model, args=args)
    host.begin(rates)
    assert host.core is core
    return host.create_optimizer()


def step(optimizer, model):
    """A gradient of 1 for whatever takes one; how far each parameter moves."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {n: float((before[n] - p.detach()).abs().max()) for n, p in model.named_parameters()}


def used_parameters(model):
    """All but those of the layers that no output depends on, which are never trained."""
    unused = tuple(f"model.{name}." for name in model.unused_names)
    return {n: p for n, p in model.named_parameters() if not n.startswith(unused)}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_part_moves_with_its_own_rate(backbone, tmp_path):
    """Plain SGD: with a gradient of 1, a parameter moves by its rate."""
    policy = small_policy(backbone)
    freeze_others(policy, RATES)
    parts = dict.fromkeys(PARTS, 0)
    for part, _ in trained_parameters(policy.model):
        parts[part] += 1
    assert all(parts[part] for part in RATES)
    used = used_parameters(policy.model)
    assert sum(parts.values()) == len(used)  # none in no part
    part_of = {id(p): part for part, p in trained_parameters(policy.model)}
    optimizer = optimizer_of(policy.model, policy.model, RATES, tmp_path)
    moved = step(optimizer, policy.model)
    for name, parameter in used.items():
        assert moved[name] == pytest.approx(RATES[part_of[id(parameter)]], rel=1e-3), name
    assert part_of[id(policy.model.lm_head.weight)] == "language_model"


@pytest.mark.parametrize("left_out", RATES)
def test_a_part_without_a_rate_stays(left_out, tmp_path):
    policy = small_policy("internvl3")
    frozen = {id(p) for p in policy.model.parts()[left_out].parameters()}
    if left_out == "language_model":
        frozen.add(id(policy.model.lm_head.weight))
    rates = {name: rate for name, rate in RATES.items() if name != left_out}
    freeze_others(policy, rates)
    moved = step(optimizer_of(policy.model, policy.model, rates, tmp_path), policy.model)
    for name, parameter in policy.model.named_parameters():
        assert (moved[name] == 0) == (id(parameter) in frozen), name


@pytest.mark.parametrize("backbone", BACKBONES)
def test_weight_decay_follows_the_rule_of_transformers_and_spares_all_norms(backbone, tmp_path):
    policy = small_policy(backbone)
    freeze_others(policy, RATES)
    optimizer = optimizer_of(policy.model, policy.model, RATES, tmp_path, weight_decay=0.1)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    names = used_parameters(policy.model)
    assert len(decay) == len(names)
    decayed = {name for name, p in names.items() if decay[id(p)] == 0.1}
    by_rule = set(Trainer.get_decay_parameter_names(None, policy.model)) & set(names)
    # blocks.0.norm1.weight, branch2.norm_a.weight, and what is one by its class only
    marks = (".norm", ".standardise.", ".ln_q.")
    norms = {name for name in by_rule if any(mark in name for mark in marks)}
    assert norms and decayed == by_rule - norms
    assert not any("bias" in name or "norm" in name for name in decayed)
    assert {round(g["lr"], 6) for g in optimizer.param_groups} == set(RATES.values())


def test_lora_is_a_part_beside_the_projectors(tmp_path):
    policy = small_policy("internvl3")
    rates = {"lora": 1e-2, "vision_projector": 2e-3}
    freeze_others(policy, rates)
    model = get_peft_model(policy.model, lora_config(None, policy, rates))
    moved = step(optimizer_of(model, policy.model, rates, tmp_path), model)
    for name, distance in moved.items():
        is_copy = "multi_modal_projector.modules_to_save" in name
        rate = 1e-2 if "lora_" in name else 2e-3 if is_copy else 0.0
        assert distance == pytest.approx(rate, rel=1e-3), name
    assert sum(distance > 0 for distance in moved.values()) > 4
    assert lora_config(None, policy, {"language_model": 1.0}) is None


BESIDE_LORA = {"lora": 1e-4, "vision_projector": 1e-5, "vision_tower": 2e-5, "slowfast": 3e-5}


def lora_stage(rates):
    data = (SourceSettings(config="d.yaml"),)
    settings = LoraSettings(r=2, dropout=0.05)
    return SftStage(name="s", kind="sft", data=data, train=rates, lora=settings)


def part_of_name(name):
    """The part of a parameter of a model with LoRA, by its name; None for what LoRA replaces."""
    if ".lora_" in name:
        return "lora"
    if "original_module" in name:
        return None
    projectors = ("multi_modal_projector", "visual.merger", "visual.deepstack_merger")
    if any(projector in name for projector in projectors):
        return "vision_projector"
    places = {"vision_tower": "vision_tower", ".visual.": "vision_tower", "slowfast": "slowfast"}
    return next((part for place, part in places.items() if place in name), None)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_all_parts_beside_lora_move_by_their_own_rate(backbone, tmp_path):
    """Groups of the optimizer are (part x decay), and a gradient of 1 moves each by its rate."""
    policy = small_policy(backbone)
    freeze_others(policy, BESIDE_LORA)
    model = with_lora(policy, lora_stage(BESIDE_LORA), is_autocast=False)
    decay = {"weight_decay": 0.05}
    optimizer = optimizer_of(model, policy.model, BESIDE_LORA, tmp_path, **decay)
    names = {id(p): name for name, p in model.named_parameters()}
    groups = {}
    for group in optimizer.param_groups:
        (part,) = {part_of_name(names[id(p)]) for p in group["params"]}
        assert group["lr"] == BESIDE_LORA[part]
        groups.setdefault((part, group["weight_decay"]), []).extend(
            names[id(p)] for p in group["params"]
        )
    whole = [(part, rate) for part in BESIDE_LORA if part != "lora" for rate in (0.0, 0.05)]
    assert set(groups) == {("lora", 0.05), *whole}  # updates have no biases and no norms
    decayed = [name for (_, rate), of in groups.items() if rate for name in of]
    assert not any("bias" in name or "norm" in name for name in decayed)
    moved = step(optimizer_of(model, policy.model, BESIDE_LORA, tmp_path), model)
    for name, distance in moved.items():
        rate = BESIDE_LORA.get(part_of_name(name), 0.0)
        assert distance == pytest.approx(rate, rel=0.1), name  # rounded where weights are large


def test_half_precision_does_not_swallow_small_rates():
    """One step of 1e-6 from 1.0 is lost in bfloat16, whose neighbours are .0039 away."""
    policy = small_policy("internvl3")
    policy.model.bfloat16()
    freeze_others(policy, BESIDE_LORA)
    model = with_lora(policy, lora_stage(BESIDE_LORA), is_autocast=True)
    types = {(p.requires_grad, p.dtype) for p in model.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
    merged = merge_lora(model)
    assert {p.dtype for p in merged.parameters()} == {torch.bfloat16}
    assert not any("lora" in name for name, _ in merged.named_parameters())


def test_what_a_policy_does_not_have_cannot_be_trained():
    from thinker.policies import TinySize

    policy = small_policy("internvl3", size=TinySize(motion_mode="none", width=32))
    with pytest.raises(ValueError, match="train names slowfast, which this policy does not have"):
        freeze_others(policy, {"slowfast": 1.0})
    with pytest.raises(ValueError, match="DummyOptim, which has one learning rate"):
        split_by_part(type("DummyOptim", (), {})(), policy.model, RATES)
