"""What a user can get wrong in a run is said before its policy is loaded and its folder claimed."""

import pytest

from tests.helpers.pipeline_runs import run_config
from thinker.data.demo.generate import generate_demo_set
from thinker.data.demo.plan import SyntheticConfig
from thinker.policies import TinySize, tiny_policy
from thinker.train import pipeline
from thinker.train.pipeline import run_training, stage_args


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    config = SyntheticConfig(num_train_contents=3, num_eval_contents=4, clips_per_content=2)
    return generate_demo_set(folder, config, num_workers=1).root.parent


@pytest.fixture
def no_policy(monkeypatch):
    """A policy that is loaded fails the test."""

    def start(*given):
        raise AssertionError("the policy was loaded")

    monkeypatch.setattr(pipeline, "start_policy", start)


GRPO, SFT = "stages.grpo", "stages.warm_start"
LORA = "{lora: 1e-4}"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        # 6 videos: 64 rollouts in groups of 2 are of 32 of them, 8 rollouts of 4, twice 8 of 8
        ([f"{GRPO}.trainer.per_device_train_batch_size=64"], "6 videos, but one batch takes 32"),
        ([f"{GRPO}.trainer.steps_per_generation=2"], "holds 6 videos, but one batch takes 8 "),
        ([f"{GRPO}.trainer.per_device_train_batch_size=5"], "divisible by num_generations"),
        ([f"{GRPO}.trainer.per_device_train_batch_size=0"], "expected at least 1"),
        ([f"{SFT}.trainer.max_steps=-1", f"{SFT}.trainer.num_train_epochs=0"], "no step would be"),
        ([f"{GRPO}.trainer.report_to=[wnadb]"], "stages.grpo.trainer: .*report_to is 'wnadb'"),
        ([f"{GRPO}.trainer.report_to=[comet_ml]"], "comet_ml, which is not installed"),
        ([f"{SFT}.trainer.load_best_model_at_end=true"], "load_best_model_at_end"),
        ([f"{GRPO}.trainer.save_strategy=best"], "stages.grpo.trainer: .*"),
        ([f"{SFT}.trainer.eval_strategy=steps", f"{SFT}.trainer.eval_steps=1"], "expected no in"),
        ([f"{GRPO}.trainer.lr_scheduler_type=cosinus"], "stages.grpo.trainer: .*cosinus"),
        ([f"{GRPO}.perturbations=[]"], "reward temporal compares with perturbed copies"),
        (["model.slowfast=/nowhere.pyth"], "model.slowfast is '/nowhere.pyth', expected the file"),
        (["model.texts=/nowhere.txt"], "model.texts: cannot read /nowhere.txt"),
        (["model.backbone=llama"], "no tiny policy for backbone 'llama'"),
        (["model.path=/nowhere", "model.motion={}"], "/nowhere: there is no such folder"),
        (["model.motion={motion_mode: none}"], "train names motion_projector, which this policy"),
        ([f"{GRPO}.train={LORA}", f"{GRPO}.lora={{target_modules: [q_prj]}}"],
         "stages.grpo.lora.target_modules names q_prj, expected linear layers .*q_proj"),
        ([f"{GRPO}.data.0.weight=1e-12", "@second"], "an epoch of .* rows, at most 1e"),
    ],
)  # fmt: skip
def test_nothing_is_begun_that_cannot_be_finished(demo, tmp_path, no_policy, overrides, message):
    if "@second" in overrides:
        data = run_config(demo, tmp_path).stages[1].data[0].config
        two = f"[{{config: '{data}', weight: 1e-12}}, {{config: '{data}'}}]"
        overrides = [f"{GRPO}.data={two}"]
    with pytest.raises(ValueError, match=message) as caught:
        run_training(run_config(demo, tmp_path / "out", *overrides))
    assert "Repo id" not in str(caught.value)
    assert not (tmp_path / "out" / "run.json").exists()  # mended, it can be started there again


FOUR_BIT = [f"{GRPO}.train={LORA}", f"{GRPO}.lora={{quantization: nf4}}"]


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("absent", r"stages.grpo.lora: quantization: nf4 needs bitsandbytes, .*four-bit"),
        ("sharded", "stages.grpo.lora.quantization is nf4, which works on one process and by DDP"),
        ("again", "a LoRA was trained on .*before in 4 bits: rounding its weights again loses"),
    ],
)
def test_where_a_stage_cannot_train_on_four_bits(
    demo, tmp_path, no_policy, monkeypatch, case, message
):
    overrides = list(FOUR_BIT)
    is_there = None if case == "absent" else "somewhere"
    monkeypatch.setattr("thinker.policies.four_bit.find_spec", lambda name: is_there)
    if case == "sharded":
        monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    if case == "again":
        policy = tiny_policy("internvl3")
        policy.model.config.quantized_base = "nf4"
        policy.save(tmp_path / "before")
        overrides += [f"model.path={tmp_path / 'before'}", "model.motion={}"]
    with pytest.raises(ValueError, match=message):
        run_training(run_config(demo, tmp_path / "out", *overrides))
    assert not (tmp_path / "out" / "run.json").exists()


def test_the_number_of_processes_counts(demo, tmp_path, no_policy, monkeypatch):
    """8 rollouts on each of two processes are of 8 videos."""
    from trl import GRPOConfig

    monkeypatch.setattr(GRPOConfig, "world_size", 2)
    with pytest.raises(
        ValueError, match=r"takes 8 \(.* 8 x 2 processes x .* 1 / num_generations 2"
    ):
        run_training(run_config(demo, tmp_path))


def test_an_output_folder_that_is_a_file(demo, tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(ValueError, match=r"results cannot be written to .*/out"):
        run_training(run_config(demo, tmp_path / "out"))


@pytest.mark.parametrize(("gpu", "dtype"), [(False, "float32"), (True, "bfloat16")])
def test_the_type_goes_by_the_device(demo, tmp_path, monkeypatch, gpu, dtype):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    settled = pipeline.settle_dtype(run_config(demo, tmp_path, "model.dtype=auto"))
    assert settled.model.dtype == dtype
    given = pipeline.settle_dtype(run_config(demo, tmp_path, "model.dtype=bfloat16"))
    assert given.model.dtype == "bfloat16"
    on_cpu = run_config(demo, tmp_path, "model.dtype=auto", f"{SFT}.trainer.use_cpu=true")
    assert pipeline.settle_dtype(on_cpu).model.dtype == "float32"


def test_without_a_gpu_the_trainers_are_told_so(demo, tmp_path):
    """TRL's own default, bf16, is refused there."""
    config = run_config(demo, tmp_path, "model.dtype=auto")
    for number in range(2):
        args = stage_args(config, number)
        assert (args.bf16, args.use_cpu) == (False, True)


def test_a_prompt_longer_than_the_context_names_both_lengths(demo, tmp_path, monkeypatch):
    from thinker.policies import Policy

    monkeypatch.setattr(Policy, "context_tokens", 20)
    with pytest.raises(ValueError, match=r"example \S+: its prompt may have \d+ tokens, .* has 20"):
        run_training(run_config(demo, tmp_path))


def test_heads_that_sections_do_not_fill_are_refused_when_the_policy_is_built():
    """Width 24: 3 + 4 + 4 of the 12 frequencies."""
    with pytest.raises(ValueError, match=r"24 wide \(48 by 2\), expected a width that 16 divides"):
        tiny_policy("qwen2_5_vl", size=TinySize(width=48, heads=2))
