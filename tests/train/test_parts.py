"""Parts and their learning rates, in the optimizer that transformers makes."""

import pytest
import torch
from peft import get_peft_model
from transformers import Trainer, TrainingArguments

from tests.helpers.policy_factory import BACKBONES, small_policy
from thinker.config.run import PARTS
from thinker.train.parts import freeze_others, lora_config, split_by_part, trained_parameters

RATES = {
    "vision_tower": 1e-3, "vision_projector": 2e-3, "slowfast": 3e-3, "motion_projector": 4e-3,
    "language_model": 5e-3,
}  # fmt: skip


def optimizer_of(model, core, rates, tmp_path, **settings):
    args = TrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to=[], optim="sgd", **settings
    )
    optimizer = Trainer(model=model, args=args).create_optimizer()
    split_by_part(optimizer, core, rates)
    return optimizer


def step(optimizer, model):
    """A gradient of 1 for whatever takes one; how far each parameter moves."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {n: float((before[n] - p.detach()).abs().max()) for n, p in model.named_parameters()}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_part_moves_with_its_own_rate(backbone, tmp_path):
    """Plain SGD: with a gradient of 1, a parameter moves by its rate."""
    policy = small_policy(backbone)
    freeze_others(policy, RATES)
    parts = dict.fromkeys(PARTS, 0)
    for part, _ in trained_parameters(policy.model):
        parts[part] += 1
    assert all(parts[part] for part in RATES)
    assert sum(parts.values()) == len(list(policy.model.parameters()))  # none in no part
    part_of = {id(p): part for part, p in trained_parameters(policy.model)}
    optimizer = optimizer_of(policy.model, policy.model, RATES, tmp_path)
    moved = step(optimizer, policy.model)
    for name, parameter in policy.model.named_parameters():
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


def test_weight_decay_follows_the_rule_of_transformers(tmp_path):
    policy = small_policy("internvl3")
    freeze_others(policy, RATES)
    optimizer = optimizer_of(policy.model, policy.model, RATES, tmp_path, weight_decay=0.1)
    decay = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    names = dict(policy.model.named_parameters())
    assert len(decay) == len(names)
    decayed = set(Trainer.get_decay_parameter_names(None, policy.model))
    assert {name for name, p in names.items() if decay[id(p)] == 0.1} == decayed
    assert not any("bias" in name for name in decayed)
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


def test_what_a_policy_does_not_have_cannot_be_trained():
    from thinker.policies import TinySize

    policy = small_policy("internvl3", size=TinySize(motion_mode="none", width=32))
    with pytest.raises(ValueError, match="train names slowfast, which this policy does not have"):
        freeze_others(policy, {"slowfast": 1.0})
    with pytest.raises(ValueError, match="DummyOptim, which has one learning rate"):
        split_by_part(type("DummyOptim", (), {})(), policy.model, RATES)
