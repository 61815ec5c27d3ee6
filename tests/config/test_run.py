"""Run configurations: keys are frozen, overrides work, and what is wrong is said."""

import dataclasses

import pytest
import yaml

from tests.helpers.places import REPO
from thinker.config.run import RunConfig, load_run_config
from thinker.train.pipeline import foreign_values, grpo_args

CONFIGS = REPO / "run_scripts" / "configs"
RUNS = sorted(CONFIGS.glob("grpo_*.yaml"))


def keys(cls, prefix=""):
    """Dotted keys of a settings dataclass, nested ones included."""
    found = set()
    for field in dataclasses.fields(cls):
        name = prefix + field.name
        found.add(name)
        default = field.default
        if dataclasses.is_dataclass(default):
            found |= keys(type(default), name + ".")
    return found


def test_the_set_of_keys_is_frozen():
    """A key that comes or goes is a change of the product: change this list with it."""
    assert keys(RunConfig) == {
        "seed", "output_dir", "perturbations", "rewards", "warm_start", "grpo",
        "model", "model.path", "model.backbone", "model.dtype", "model.motion", "model.clip",
        "model.slowfast", "model.freeze", "model.lora",
        "data", "data.config", "data.variables", "data.overrides", "data.cache",
        "data.num_workers", "data.max_failed_share", "data.skip_bad_lines",
        "rollout", "rollout.backend", "rollout.mode", "rollout.memory_share", "rollout.sleep",
        "rollout.timeout_seconds", "rollout.max_restarts", "rollout.server_url", "rollout.push",
        "rollout.sync_folder", "scoring", "max_skipped_steps",
    }  # fmt: skip


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
        ({"rewards": [{"nmae": "x"}]}, r"unknown key 'rewards\[0\].nmae'; did you mean 'name'"),
        ({"seed": "one"}, "seed is 'one', expected int"),
        ({"seed": True}, "seed is True, expected int"),
        ({"data": {"max_failed_share": "all"}}, "data.max_failed_share is 'all', expected float"),
        ({"model": {"freeze": "slowfast"}}, "model.freeze is 'slowfast', expected a list"),
        ({"model": {"dtype": "float16"}}, "model.dtype is 'float16', expected float32 or bfloat16"),
        ({"model": 3}, "model is 3, expected a mapping"),
        ({"rollout": {"backend": "trt"}}, "expected auto, hf or vllm"),
        ({"rollout": {"mode": "server"}}, "rollout.server_url is not set"),
        ({"rollout": {"max_restarts": -1}}, "max_restarts is -1"),
        ({"warm_start": {"level_share": 2.0}}, "level_share is 2.0, expected 0 to 1"),
    ],
)
def test_what_is_wrong_is_said(tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        load_run_config(write(tmp_path, values))


def test_unknown_grpo_key_names_the_nearest():
    from trl import GRPOConfig

    with pytest.raises(ValueError, match=r"GRPOConfig.bta'; did you mean 'beta'"):
        foreign_values(GRPOConfig, {"bta": 0.1})


def test_foreign_values_are_what_their_author_meant():
    from trl import GRPOConfig

    given = yaml.safe_load("{learning_rate: 1e-6, eval_strategy: no, bf16: no, save_steps: 3}")
    assert foreign_values(GRPOConfig, given) == {
        "learning_rate": 1e-6, "eval_strategy": "no", "bf16": False, "save_steps": 3,
    }  # fmt: skip


def test_a_file_that_is_no_mapping_or_not_there(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("- 1\n")
    with pytest.raises(ValueError, match="expected a mapping"):
        load_run_config(path)
    with pytest.raises(ValueError, match="no run configuration at"):
        load_run_config(tmp_path / "absent.yaml")
    with pytest.raises(ValueError, match="has no '='"):
        load_run_config(write(tmp_path, {}), ["seed"])
