"""A trainer whose rewards are given numbers, one batch a step."""

from tests.helpers.fault_jobs import build, save_start
from tests.helpers.trainer_runs import scripted
from thinker.train.grpo.rewards import WeightedReward

ONE_BATCH = {
    "per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "steps_per_generation": 1,
    "num_iterations": 1,
}  # fmt: skip


class Given:
    """A reward whose values are given, by sample number and rollout."""

    name = "given"
    needs_perturbed = False
    tasks = ("score",)

    def __init__(self, value):
        self.value, self.seen = value, {}

    def __call__(self, completions, sample_id, target, **columns):
        places: dict[str, int] = {}
        values = []
        for sample in sample_id:
            place = places[sample] = places.get(sample, -1) + 1
            values.append(self.value(int(sample.split("/")[1]), place))
        return values


def given_trainer(folder, value, **settings):
    """One step without checkpoints, on the policy of `folder / "start"`, made where it is absent;
    `value(sample, rollout)` is the reward."""
    if not (folder / "start").exists():
        folder.mkdir(exist_ok=True)
        save_start(folder)
    reward = WeightedReward(reward=Given(value))
    settings = {**ONE_BATCH, "max_steps": 1, "save_strategy": "no", **settings}
    return build(folder, rewards=[reward], rollout=scripted(), **settings)
