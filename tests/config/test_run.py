"""Run configurations: keys are frozen, overrides work, and what is wrong is said."""

import dataclasses
import json
import re
import typing

import pytest
import yaml

from tests.helpers.places import REPO
from thinker.config.build import foreign_values
from thinker.config.run import RENAMED, GrpoStage, RunConfig, load_run_config
from thinker.train.pipeline import stage_args

CONFIGS = REPO / "run_scripts" / "configs"
RUNS = sorted(CONFIGS.glob("grpo_*.yaml"))


def dataclasses_in(hint):
    if dataclasses.is_dataclass(hint):
        return [hint]
    return [found for part in typing.get_args(hint) for found in dataclasses_in(part)]


def keys(cls, prefix=""):
    """Dotted keys of a settings dataclass, those of optional and repeated sections included."""
    found = set()
    for name, hint in typing.get_type_hints(cls).items():
        found.add(prefix + name)
        for section in dataclasses_in(hint):
            found |= keys(section, f"{prefix}{name}.")
    return found


def test_the_set_of_keys_is_frozen():
    """A key that comes or goes is a change of the product: change this list with it."""
    assert keys(RunConfig) == {
        "seed", "output_dir",
        "stages", "stages.name", "stages.kind", "stages.data", "stages.data.config",
        "stages.data.weight", "stages.data.overrides", "stages.train", "stages.trainer",
        "stages.lora", "stages.lora.r", "stages.lora.alpha", "stages.lora.dropout",
        "stages.lora.target_modules", "stages.lora.quantization",
        "stages.rewards", "stages.rewards.name", "stages.rewards.weight", "stages.rewards.config",
        "stages.perturbations", "stages.logprobs", "stages.max_skipped_steps",
        "stages.one_step_off",
        "model", "model.path", "model.backbone", "model.dtype", "model.motion", "model.clip",
        "model.slowfast", "model.levels", "model.texts",
        "data", "data.eval", "data.eval.config", "data.eval.overrides", "data.variables",
        "data.cache",
        "data.held_out", "data.num_workers", "data.max_failed_share", "data.skip_bad_lines",
        "rollout", "rollout.backend", "rollout.mode", "rollout.memory_share", "rollout.sleep",
        "rollout.timeout_seconds", "rollout.max_restarts", "rollout.server_url", "rollout.push",
        "rollout.sync_folder",
    }  # fmt: skip


def stage(**values):
    return {"stages": [{**STAGE, **values}]}


STAGE = {
    "name": "grpo", "kind": "grpo", "data": [{"config": "x.yaml"}],
    "train": {"language_model": 1e-6}, "rewards": [{"name": "format"}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grpo": {"beta": 0.1}}, "grpo is no key any more; write its keys under trainer of a st"),
        ({"warm_start": None}, "warm_start is no key any more; write a stage before the grpo st"),
        ({"scoring": "plain"}, "scoring is no key any more; write logprobs: … in a grpo stage"),
        ({"model": {"freeze": []}}, "model.freeze is no key any more; name the parts that are tr"),
        ({"data": {"config": "x"}}, "data.config is no key any more; name data sets under data o"),
    ],
)
def test_a_key_of_an_earlier_version_says_what_to_write(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        load_run_config(write(tmp_path, {"stages": [STAGE], **values}))
    assert not set(RENAMED) & keys(RunConfig)


def test_an_override_of_an_earlier_version_says_what_to_write(tmp_path):
    with pytest.raises(ValueError, match="under trainer of a stage"):
        load_run_config(write(tmp_path, {"stages": [STAGE]}), ["grpo.beta=0.1"])


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_shipped_configurations_load_and_the_trainers_take_them(path, tmp_path):
    on_cpu = ["stages.grpo.trainer.bf16=false", "stages.grpo.trainer.use_cpu=true"]
    config = load_run_config(path, [f"output_dir={tmp_path}", *on_cpu])
    for number, stage in enumerate(config.stages):
        args = stage_args(config, number)
        assert args.learning_rate == max(stage.train.values())
        if isinstance(stage, GrpoStage):
            assert stage.rewards and args.per_device_train_batch_size % args.num_generations == 0
        for source in stage.data:
            assert (REPO / source.config).is_file()


def test_lsvq_has_the_defaults_of_the_reference_run():
    """VQAThinker: G 4, 8 x 8 x 2 / 4 = 32 videos a step, beta .04, lr 1e-6 linear, epsilon .2."""
    (stage,) = load_run_config(CONFIGS / "grpo_lsvq.yaml").stages
    grpo = stage.trainer
    assert grpo["num_generations"] == 4
    rows = grpo["per_device_train_batch_size"] * 8 * grpo["gradient_accumulation_steps"]
    assert rows / grpo["num_generations"] == 32
    assert (grpo["beta"], grpo["epsilon"]) == (0.04, 0.2)
    assert set(stage.train.values()) == {1e-6} and "slowfast" not in stage.train
    assert grpo["lr_scheduler_type"] == "linear"
    assert grpo["num_train_epochs"] == 3


def test_the_recipe_of_vida_is_as_published(tmp_path):
    """128 examples a step on 8 GPUs, and the rates of what is trained beside LoRA."""
    data = "stages.lessons.data=[{config: data_configs/demo/vida.yaml}]"
    bounds = "model.clip.image_max_pixels=3211264"
    on_cpu = ["stages.lessons.trainer.bf16=false", "stages.lessons.trainer.use_cpu=true"]
    given = [data, bounds, *on_cpu, f"output_dir={tmp_path}"]
    config = load_run_config(CONFIGS / "sft_vida.yaml", given)
    (stage,), args = config.stages, stage_args(config, 0)
    assert stage.train == {"lora": 1e-4, "vision_projector": 1e-5, "vision_tower": 1e-6}
    assert (stage.lora.r, stage.lora.alpha, stage.lora.dropout) == (64, 128, 0.05)
    assert 8 * args.per_device_train_batch_size * args.gradient_accumulation_steps == 128
    assert (args.save_strategy, args.save_steps, args.weight_decay) == ("steps", 1000, 0.05)
    assert (args.lr_scheduler_type, args.num_train_epochs) == ("cosine", 1)
    assert args.gradient_checkpointing and config.model.clip == {"image_max_pixels": 3211264}


def write(tmp_path, values):
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(values))
    return path


def test_an_override_with_null_leaves_an_entry_of_a_list_out(tmp_path):
    """The others stay, in their order; what is left out cannot be called any more."""
    path = write(tmp_path, {"stages": [STAGE | {"name": name} for name in ("a", "b", "c")]})
    config = load_run_config(path, ["stages.b=null", f"output_dir={tmp_path}"])
    assert [stage.name for stage in config.stages] == ["a", "c"]
    with pytest.raises(ValueError, match="no entry 'b' among 2"):
        load_run_config(path, ["stages.b=null", "stages.b.trainer.beta=1"])


def test_overrides_call_stages_by_name_or_number_and_take_scientific_form(tmp_path):
    path = write(tmp_path, {"stages": [{**STAGE, "trainer": {"epsilon": 0.2}}]})
    config = load_run_config(
        path,
        [
            "stages.grpo.train.language_model=1e-5", "stages.0.trainer.beta=0.04", "seed=3",
            "stages.grpo.data.0.weight=2", "data.num_workers=0", "stages.grpo.trainer.use_cpu=true",
            "stages.grpo.trainer.bf16=false", "stages.grpo.trainer.max_grad_norm=1e-1",
            f"output_dir={tmp_path}",
        ],
    )  # fmt: skip
    (stage,) = config.stages
    assert config.seed == 3
    assert stage.train == {"language_model": 1e-5}  # YAML 1.1 reads 1e-5 as text
    assert stage.data[0].weight == 2.0
    args = stage_args(config, 0)
    assert (args.learning_rate, args.beta, args.max_grad_norm) == (1e-5, 0.04, 0.1)
    with pytest.raises(ValueError, match=r"no entry 'sft' among 1; .* a name of grpo"):
        load_run_config(path, ["stages.sft.trainer.beta=1"])


FOUR_BIT = {**STAGE, "train": {"lora": 1e-4}, "lora": {"quantization": "nf4"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "unknown key 'modle'; did you mean 'model'"),
        ({"data": {"num_worker": 1}}, "unknown key 'data.num_worker'; did you mean 'num_workers'"),
        (
            stage(rewards=[{"name": "x", "wieght": 1}]),
            "'stages.grpo.rewards.x.wieght'; did you mean",
        ),
        (stage(kind="rl"), "stages.grpo.kind is 'rl', expected sft or grpo"),
        (stage(name="final"), "name is 'final', expected lower-case letters"),
        (stage(data=[]), "data is empty"),
        (stage(train={}), "train names no part, expected some of vision_tower"),
        (stage(train={"head": 1}), "train names head, expected some of vision_tower"),
        (stage(train={"lora": 1, "vision_tower": 1}), "vision_tower beside lora in a grpo stage"),
        (stage(train={"lora": 1, "language_model": 1}), "names language_model beside lora, which"),
        (stage(train={"slowfast": -1}), "expected rates above 0"),
        (stage(train={"slowfast": 0, "language_model": 1e-5}), "expected rates above 0"),
        (stage(lora={"r": 0}, train={"lora": 1e-4}), "stages.grpo.lora: r is 0"),
        ({"stages": [STAGE, {**STAGE, "name": 3}]}, "stages.1.name is 3, expected a valid string"),
        (stage(lora={"r": 4}), "train gives it no rate"),
        (stage(lora={"quantization": "nf4"}), "weights in 4 bits cannot be trained themselves"),
        (stage(lora={"quantization": "int8"}, train={"lora": 1}), "quantization is 'int8', expect"),
        (
            {"stages": [FOUR_BIT, {**FOUR_BIT, "name": "b"}]},
            "stages grpo and b have lora.quantizat",
        ),
        (stage(trainer={"learning_rate": 1}), "rates are given by part"),
        (stage(trainer={"output_dir": "x"}), "trainer has output_dir, which is a key of the run"),
        (stage(trainer={"seed": 1}), "trainer has seed, which is a key of the run"),
        (stage(logprobs="fast"), "logprobs is 'fast', expected shared or plain"),
        ({"stages": [STAGE, STAGE]}, "each with a name of its own"),
        ({"stages": []}, "the stages are called nothing"),
        ({"seed": "one"}, "seed is 'one', expected a valid integer"),
        ({"seed": True}, "seed is True, expected a valid integer"),
        ({"data": {"max_failed_share": "all"}}, "max_failed_share is 'all', expected a valid numb"),
        ({"data": {"variables": {"A": 3}}}, "data.variables.A is 3, expected a valid string"),
        ({"model": {"dtype": "float16"}}, "model: dtype is 'float16', expected one of auto, fl"),
        ({"model": 3}, "model is 3, expected a mapping"),
        ({"rollout": {"backend": "trt"}}, "rollout: backend is 'trt', expected auto, hf or vllm"),
        ({"rollout": {"mode": "server"}}, "rollout: .*server_url is not set"),
        ({"rollout": {"max_restarts": -1}}, "max_restarts is -1"),
        ({"rollout": {"server_url": ["http://a", "http://a/"]}}, "server_url names a server twic"),
        (stage(one_step_off=True), "stage grpo: one_step_off needs .* rollout.backend is auto"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, values, message):
    path = write(tmp_path, {"stages": [STAGE], **values})
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}"):
        load_run_config(path)


def test_unknown_grpo_key_names_the_nearest():
    from trl import GRPOConfig

    with pytest.raises(ValueError, match=r"unknown key 'grpo.bta'; did you mean 'beta'"):
        foreign_values(GRPOConfig, {"bta": 0.1}, "grpo")
    for key, expected in (
        ("num_generations", "a whole number"),
        ("beta", "a number"),
        ("bf16", "true"),
    ):
        with pytest.raises(ValueError, match=rf"grpo\.{key} is 'five', expected {expected}"):
            foreign_values(GRPOConfig, {key: "five"}, "grpo")
    for value in (2.5, [2], {"a": 1}, True, float("inf")):
        with pytest.raises(ValueError, match=r"grpo\.num_generations is .*, expected a whole numb"):
            foreign_values(GRPOConfig, {"num_generations": value}, "grpo")


def test_foreign_values_are_what_their_author_meant():
    from trl import GRPOConfig

    given = yaml.safe_load("{learning_rate: 1e-6, eval_strategy: no, bf16: no, save_steps: 3}")
    assert foreign_values(GRPOConfig, given, "grpo") == {
        "learning_rate": 1e-6, "eval_strategy": "no", "bf16": False, "save_steps": 3,
    }  # fmt: skip


def test_a_file_that_is_no_mapping_or_not_there(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="expected a mapping"):
        load_run_config(path)
    with pytest.raises(ValueError, match=r"cannot read .*absent\.yaml"):
        load_run_config(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="has no '='"):
        load_run_config(write(tmp_path, {"stages": [STAGE]}), ["seed"])
