"""The smoke configuration, made as small as it still runs."""

from tests.helpers.places import REPO
from thinker.config.run import load_run_config

SMOKE = REPO / "run_scripts" / "configs" / "grpo_smoke.yaml"


TINY = "{width: 32, vision_width: 32, slow_width: 8}"


def run_config(demo, output, *overrides):
    return load_run_config(
        SMOKE,
        [
            f"output_dir={output}",
            f"data.variables={{DEMO_ROOT: '{demo}'}}",
            f"data.cache={demo / 'cache'}",
            f"data.config={REPO / 'data_configs' / 'demo.yaml'}",
            "data.num_workers=0",
            f"model.motion={TINY}",
            "warm_start.trainer.max_steps=3",
            "warm_start.trainer.per_device_train_batch_size=4",
            "grpo.max_steps=2",
            "grpo.per_device_train_batch_size=8",
            "grpo.steps_per_generation=1",
            "grpo.num_generations=2",
            "grpo.logging_steps=1",
            "grpo.disable_tqdm=true",
            "rollout.backend=hf",
            *overrides,
        ],
    )
