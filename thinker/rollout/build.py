"""Which back end generates: `rollout.backend` of the run configuration, resolved and logged."""

import logging

from thinker.config.run import RolloutSettings
from thinker.policies import Policy
from thinker.rollout.base import Rollout, RolloutStartError
from thinker.rollout.hf import hf_rollout
from thinker.utils.tensors import largest_of_all_processes

logger = logging.getLogger(__name__)


def build_rollout(
    settings: RolloutSettings,
    policy: Policy,
    *,
    max_new_tokens: int,
    max_prompt_tokens: int | None = None,
) -> Rollout:
    """The back end of a policy; it holds the policy's weights only after its first `sync`.

    "auto" takes vLLM where it starts in every process, else transformers, and logs which; "vllm"
    raises RolloutStartError instead. max_new_tokens: the longest completion that will be asked for.
    max_prompt_tokens: the longest prompt; None stands for a question about one video.
    """
    if settings.backend == "hf":
        return hf_rollout(policy)
    from thinker.rollout.vllm.rollout import VllmRollout

    rollout, error = None, None
    try:
        rollout = VllmRollout.start(
            policy, settings, max_new_tokens=max_new_tokens, max_prompt_tokens=max_prompt_tokens
        )
    except RolloutStartError as caught:
        error = caught
    failed = largest_of_all_processes(int(error is not None), policy.model.device)
    if rollout is not None and not failed:
        logger.info("rollouts by vLLM, %s", settings.mode)
        return rollout
    if rollout is not None:
        rollout.close()
        error = RolloutStartError("the vLLM engine of another process did not start")
    assert error is not None
    if settings.backend == "vllm":
        raise error
    logger.warning("rollouts by transformers (hf): %s", error)
    return hf_rollout(policy)


def scoring_rollout(
    policy: Policy, backend: str, *, max_new_tokens: int, max_prompt_tokens: int | None = None
) -> Rollout:
    """The back end of a policy that is not trained, ready to generate; see `build_rollout`."""
    settings = RolloutSettings(backend=backend)
    rollout = build_rollout(
        settings, policy, max_new_tokens=max_new_tokens, max_prompt_tokens=max_prompt_tokens
    )
    rollout.sync(step=0)
    return rollout
