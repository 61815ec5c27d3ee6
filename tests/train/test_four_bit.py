"""Stages that train LoRA on a language model in 4 bits."""

import dataclasses
import shutil
from importlib.util import find_spec

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import TrainingArguments

from tests.helpers.policy_factory import small_policy
from tests.helpers.trainer_runs import ClipsByNumber, make_trainer, rewards, samples, scripted
from thinker.config.run import LoraSettings, SftStage, SourceSettings
from thinker.data.mixture import Source
from thinker.policies import load_policy
from thinker.policies.adapters import merge_adapter
from thinker.policies.four_bit import packed_layers
from thinker.train.parts import freeze_others, with_lora
from thinker.train.sft.trainer import SupervisedTrainer

pytestmark = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)

RATES = {"lora": 1e-2, "vision_projector": 1e-2}
STEPS = {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "report_to": []}


def grpo(folder):
    projectors = small_policy("internvl3").model.projector_names
    lora = LoraConfig(
        r=4, target_modules=r".*language_model.*\.(q_proj|down_proj)", modules_to_save=projectors
    )
    return make_trainer(
        folder, lora=lora, rollout=scripted(), quantization="nf4", save_start=False, beta=0.04,
        reward_list=rewards("regression", "ranking"), learning_rate=1e-2,
        gradient_checkpointing=True, **STEPS,
    )  # fmt: skip


def sft(folder):
    policy = load_policy(folder / "start", quantization="nf4")
    freeze_others(policy, RATES)
    stage = SftStage(
        name="s", kind="sft", data=(SourceSettings(config="d.yaml"),), train=RATES,
        lora=LoraSettings(r=4, dropout=0.1, quantization="nf4"),
    )  # fmt: skip
    args = TrainingArguments(
        output_dir=str(folder / "run"), per_device_train_batch_size=2, use_cpu=True,
        disable_tqdm=True, gradient_checkpointing=True, **STEPS,
    )  # fmt: skip
    lessons = [
        dataclasses.replace(example, task="open", reference="It is blur.", target=None)
        for example in samples(questions=("<video>\nWhat is it?",))
    ]
    return SupervisedTrainer(
        policy=policy, model=with_lora(policy, stage, is_autocast=False), args=args, rates=RATES,
        sources=[Source(examples=tuple(lessons))], read_clip=ClipsByNumber(policy),
    )  # fmt: skip


def codes(model):
    return {
        name: (layer.weight.data.clone(), layer.weight.quant_state.absmax.clone())
        for name, layer in packed_layers(model).items()
    }


@torch.no_grad()
def logps(model):
    ids = torch.arange(10, 30).unsqueeze(0)
    return model.eval()(input_ids=ids).logits.log_softmax(-1)


@pytest.mark.parametrize("build", [grpo, sft])
def test_a_stage_on_four_bits(tmp_path, build):
    """Two steps: what moves and what does not, its checkpoint, its end, and a restart."""
    start = tmp_path / "start"
    small_policy("internvl3", amplify=1.0).save(start)
    trainer = build(tmp_path)
    trained = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    assert {parameter.dtype for parameter in trained.values()} == {torch.float32}
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    base, packed = load_policy(start).model.state_dict(), codes(trainer.core)
    for name, tensor in before.items():
        if "modules_to_save" in name:  # as they were, not rounded to bfloat16
            own = name.removeprefix("base_model.model.").replace("modules_to_save.default.", "")
            assert torch.equal(tensor, base[own]), name
    trainer.train()
    after = codes(trainer.core)
    assert after.keys() == packed.keys()
    for name, tensors in packed.items():
        assert all(map(torch.equal, after[name], tensors)), name
    moved = {name for name in trained if not torch.equal(trained[name], before[name])}
    assert any("lora_A" in name for name in moved) and any("lora_B" in name for name in moved)
    assert any("multi_modal_projector" in name for name in moved)
    if build is grpo:
        kl = [log["kl"] for log in trainer.state.log_history if "kl" in log]
        assert kl[0] == 0 and kl[1] > 0

    expected = logps(trainer.core)
    checkpoint = tmp_path / "run" / "checkpoint-2"
    reloaded = load_policy(start, quantization="nf4")
    model = PeftModel.from_pretrained(reloaded.model, str(checkpoint))
    assert torch.equal(logps(model), expected)

    policy = load_policy(start)
    trainer.trained_policy(policy).save(tmp_path / "final")
    final = load_policy(tmp_path / "final").model
    assert not packed_layers(final)
    assert (logps(final) - expected).abs().max() < 1e-4
    weights = final.state_dict()
    by_hand = merge_adapter(start, checkpoint).model.state_dict()
    assert all(torch.equal(weights[name], by_hand[name]) for name in weights)

    shutil.rmtree(checkpoint)
    again = build(tmp_path)
    again.train(resume_from_checkpoint=True)
    resumed = again.trained_policy(policy).model.state_dict()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
