"""The smoke configuration, made as small as it still runs."""

import dataclasses

from tests.helpers.places import REPO
from thinker.config.run import load_run_config

SMOKE = REPO / "run_scripts" / "configs" / "grpo_smoke.yaml"


DATA = REPO / "data_configs"
LESSONS = [
    f"{{config: '{DATA / 'demo' / name}.yaml'}}" for name in ("distortion", "level", "score")
]


TINY = "{width: 32, vision_width: 32, slow_width: 8}"


def run_config(demo, output, *overrides):
    return load_run_config(
        SMOKE,
        [
            f"output_dir={output}",
            f"data.variables={{DEMO_ROOT: '{demo}'}}",
            f"data.cache={demo / 'cache'}",
            f"data.eval=[{{config: '{DATA / 'demo.yaml'}'}}]",
            f"stages.grpo.data=[{{config: '{DATA / 'demo.yaml'}'}}]",
            f"stages.warm_start.data=[{', '.join(LESSONS)}]",
            "data.num_workers=0",
            f"model.motion={TINY}",
            "stages.warm_start.trainer.max_steps=3",
            "stages.warm_start.trainer.per_device_train_batch_size=4",
            "stages.grpo.trainer.max_steps=2",
            "stages.grpo.trainer.per_device_train_batch_size=8",
            "stages.grpo.trainer.steps_per_generation=1",
            "stages.grpo.trainer.num_generations=2",
            "stages.grpo.trainer.logging_steps=1",
            "stages.grpo.trainer.disable_tqdm=true",
            "rollout.backend=hf",
            *overrides,
        ],
    )


def without_warm_start(config):
    """The same run without its supervised stage, which no override can take away."""
    return dataclasses.replace(config, stages=config.stages[1:])
