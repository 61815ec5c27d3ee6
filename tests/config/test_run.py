"""Run configurations: keys are frozen, overrides work, and what is wrong is said."""

import dataclasses
import re
import typing

import pytest
import yaml

from tests.helpers.places import REPO
from thinker.config.build import foreign_values
from thinker.config.run import RENAMED, RunConfig, load_run_config
from thinker.train.grpo.run import grpo_args

CONFIGS = REPO / "run_scripts" / "configs"
RUNS = sorted(CONFIGS.glob("grpo_*.yaml"))


def keys(cls, prefix=""):
    """Dotted keys of a settings dataclass, those of optional and repeated sections included."""
    found = set()
    for name, hint in typing.get_type_hints(cls).items():
        found.add(prefix + name)
        for section in filter(dataclasses.is_dataclass, (hint, *typing.get_args(hint))):
            found |= keys(section, f"{prefix}{name}.")
    return found


def test_the_set_of_keys_is_frozen():
    """A key that comes or goes is a change of the product: change this list with it."""
    assert keys(RunConfig) == {
        "seed", "output_dir", "perturbations", "grpo", "logprobs", "max_skipped_steps",
        "rewards", "rewards.name", "rewards.weight", "rewards.config",
        "warm_start", "warm_start.level_share", "warm_start.trainer",
        "model", "model.path", "model.backbone", "model.dtype", "model.motion", "model.clip",
        "model.slowfast", "model.freeze",
        "model.lora", "model.lora.r", "model.lora.alpha", "model.lora.dropout",
        "model.lora.target_modules",
        "data", "data.config", "data.variables", "data.overrides", "data.cache",
        "data.num_workers", "data.max_failed_share", "data.skip_bad_lines",
        "rollout", "rollout.backend", "rollout.mode", "rollout.memory_share", "rollout.sleep",
        "rollout.timeout_seconds", "rollout.max_restarts", "rollout.server_url", "rollout.push",
        "rollout.sync_folder",
    }  # fmt: skip


def test_a_key_that_was_renamed_says_what_to_write(tmp_path):
    message = "scoring is called logprobs now; write logprobs: plain"
    with pytest.raises(ValueError, match=message):
        load_run_config(write(tmp_path, {"scoring": "plain"}))
    with pytest.raises(ValueError, match=message):
        load_run_config(write(tmp_path, {}), ["scoring=plain"])
    assert set(RENAMED.values()) <= keys(RunConfig)
    assert not set(RENAMED) & keys(RunConfig)


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_shipped_configurations_load_and_trl_takes_them(path, tmp_path):
    config = load_run_config(
        path, [f"output_dir={tmp_path}", "grpo.bf16=false", "grpo.use_cpu=true"]
    )
    assert config.rewards
    args = grpo_args(config)
    assert args.per_device_train_batch_size % args.num_generations == 0


def test_lsvq_has_the_defaults_of_the_reference_run():
    """VQAThinker: G 4, 8 x 8 x 2 / 4 = 32 videos a step, beta .04, lr 1e-6 linear, epsilon .2."""
    grpo = load_run_config(CONFIGS / "grpo_lsvq.yaml").grpo
    assert grpo["num_generations"] == 4
    rows = grpo["per_device_train_batch_size"] * 8 * grpo["gradient_accumulation_steps"]
    assert rows / grpo["num_generations"] == 32
    assert (grpo["beta"], grpo["learning_rate"], grpo["epsilon"]) == (0.04, 1e-6, 0.2)
    assert grpo["lr_scheduler_type"] == "linear"
    assert grpo["num_train_epochs"] == 3


def write(tmp_path, values):
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def test_overrides_set_nested_keys_and_numbers_in_scientific_form(tmp_path):
    path = write(tmp_path, {"grpo": {"beta": 0.04}, "rewards": [{"name": "format"}]})
    config = load_run_config(
        path, ["grpo.learning_rate=1e-5", "seed=3", "model.lora={r: 8}", "data.num_workers=0"]
    )
    assert config.seed == 3
    assert config.model.lora.r == 8
    assert config.grpo == {"beta": 0.04, "learning_rate": "1e-5"}  # YAML 1.1 reads 1e-5 as text
    grpo = {**config.grpo, "use_cpu": True, "bf16": False}
    args = grpo_args(dataclasses.replace(config, output_dir=str(tmp_path), grpo=grpo))
    assert args.learning_rate == 1e-5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, "unknown key 'modle'; did you mean 'model'"),
        ({"data": {"num_worker": 1}}, "unknown key 'data.num_worker'; did you mean 'num_workers'"),
        ({"rewards": [{"name": "x", "wieght": 1}]}, "'rewards.0.wieght'; did you mean 'weight'"),
        ({"seed": "one"}, "seed is 'one', expected a valid integer"),
        ({"seed": True}, "seed is True, expected a valid integer"),
        ({"data": {"max_failed_share": "all"}}, "max_failed_share is 'all', expected a valid numb"),
        ({"data": {"variables": {"A": 3}}}, "data.variables.A is 3, expected a valid string"),
        ({"model": {"freeze": "slowfast"}}, "model.freeze is 'slowfast', expected a list"),
        ({"model": {"dtype": "float16"}}, "model: dtype is 'float16', expected float32 or bfloat"),
        ({"model": 3}, "model is 3, expected a mapping"),
        ({"rollout": {"backend": "trt"}}, "rollout: backend is 'trt', expected auto, hf or vllm"),
        ({"rollout": {"mode": "server"}}, "rollout: .*server_url is not set"),
        ({"rollout": {"max_restarts": -1}}, "max_restarts is -1"),
        ({"warm_start": {"level_share": 2.0}}, "level_share is 2.0, expected 0 to 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, values, message):
    path = write(tmp_path, values)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}: .*{message}"):
        load_run_config(path)


def test_unknown_grpo_key_names_the_nearest():
    from trl import GRPOConfig

    with pytest.raises(ValueError, match=r"unknown key 'grpo.bta'; did you mean 'beta'"):
        foreign_values(GRPOConfig, {"bta": 0.1}, "grpo")


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
        load_run_config(write(tmp_path, {}), ["seed"])
