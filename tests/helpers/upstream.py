"""Every private name of TRL, transformers, torch and vLLM that the product touches.

None of these is promised to stay. tests/integration/test_upstream.py holds each to its signature
and to what it does, and searches the product for private names that are missing here, so that an
upgrade fails in one place, with the reason why we depend on the name.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Method:
    """A private method that we override or call."""

    owner: str
    """Dotted path of the class, or of the module of a function."""

    name: str

    parameters: tuple[str, ...]
    """Names of its parameters without `self`, in order; "*" and "**" mark the catch-alls."""

    why: str
    """What we rely on."""


@dataclass(frozen=True, kw_only=True)
class Attribute:
    """A private attribute that we read or write."""

    owner: str
    name: str
    why: str


TRL = "trl.GRPOTrainer"
TRAINER = "transformers.Trainer"
LOGPS = (
    "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size", "compute_entropy",
    "compute_aux_loss",
)  # fmt: skip
TURN = ("prompt_ids", "images", "multimodal_fields", "num_generations", "has_tool_images")

METHODS = (
    Method(
        owner=TRL, name="_tokenize_prompts", parameters=("prompts",),
        why="one row of ids a rollout; the other two results are images, which we have none of",
    ),
    Method(
        owner=TRL, name="_generate_single_turn", parameters=TURN,
        why="completions of all rows of this process, and their logprobs or None",
    ),
    Method(
        owner=TRL, name="_generate_and_score_completions", parameters=("inputs",),
        why="calls the three before and after it; may return more keys, which stay with the rows",
    ),
    Method(
        owner=TRL, name="_calculate_rewards",
        parameters=("inputs", "prompts", "completions", "completion_ids_list"),
        why="(rows of all processes, rewards), NaN where a reward did not judge",
    ),
    Method(
        owner=TRL, name="_prepare_inputs", parameters=("generation_batch",),
        why="one generation batch is used up in steps_per_generation · num_iterations calls",
    ),
    Method(
        owner=TRL, name="_get_per_token_logps_and_entropies", parameters=LOGPS,
        why="asked for old and reference logps without gradient, for trained ones with it",
    ),
    Method(
        owner=TRL, name="_compute_loss", parameters=("model", "inputs"),
        why="`old_per_token_logps` of the inputs, where it is there, are the old logps",
    ),
    Method(
        owner=TRL, name="_save_checkpoint", parameters=("model", "trial"),
        why="writes into `_get_output_dir`",
    ),
    Method(
        owner=TRL, name="_load_optimizer_and_scheduler", parameters=("checkpoint",),
        why="restores the entropy controller besides",
    ),
    Method(
        owner=TRL, name="_get_train_sampler", parameters=("dataset",),
        why="a RepeatSampler, whose settings EpochOrder takes over",
    ),
    Method(
        owner=TRAINER, name="_get_output_dir", parameters=("trial",),
        why="the folder that checkpoint-N is created in",
    ),
    Method(
        owner=TRAINER, name="_save_optimizer_and_scheduler", parameters=("output_dir",),
        why="called once a checkpoint, on every process; pickles",
    ),
    Method(
        owner=TRAINER, name="_save_rng_state", parameters=("output_dir",),
        why="called once a checkpoint, on every process; pickles",
    ),
    Method(
        owner=TRAINER, name="_load_rng_state", parameters=("checkpoint",),
        why="called when the data loader stands where it stood, so that nothing draws after it",
    ),
    Method(
        owner=TRAINER, name="_load_from_checkpoint",
        parameters=("resume_from_checkpoint", "model"),
        why="loads weights, keys that do not fit are only logged",
    ),
    Method(
        owner=TRAINER, name="_run_epoch",
        parameters=(
            "model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch",
            "trial", "ignore_keys_for_eval", "start_time", "resume_from_checkpoint",
            "epochs_trained", "steps_trained_in_current_epoch",
        ),
        why="called by keyword; takes a step even where max_steps is reached already",
    ),
    Method(
        owner=TRAINER, name="_get_grad_norm", parameters=("model", "grad_norm"),
        why="between the reduced gradient and the optimizer step, once a step",
    ),
    Method(
        owner="transformers.PreTrainedModel", name="_init_weights", parameters=("module",),
        why="asked for every module that no checkpoint filled",
    ),
    Method(
        owner="torch._C._autograd", name="_top_saved_tensors_default_hooks", parameters=(),
        why="the innermost saved-tensor hooks, None where there are none",
    ),
)  # fmt: skip

ATTRIBUTES = (
    Attribute(owner=TRL, name="_step", why="micro-batches trained on; indexes the buffered batch"),
    Attribute(
        owner=TRL, name="_buffered_inputs", why="the micro-batches of the batch at hand, or None"
    ),
    Attribute(
        owner=TRL,
        name="_metrics",
        why="lists by name under train and eval; `log` writes their means and clears them",
    ),
    Attribute(
        owner=TRL,
        name="_logs",
        why="rewards by name and advantages of the last rollouts of all processes, newest last",
    ),
    Attribute(owner=TRAINER, name="_tr_loss", why="sum of the losses since the last log, a tensor"),
    Attribute(owner=TRAINER, name="_total_loss_scalar", why="sum of the losses before that"),
    Attribute(owner=TRAINER, name="_globalstep_last_logged", why="the step of the last log"),
    Attribute(
        owner="torch.nn.Module",
        name="_parameters",
        why="`lm_head.bias` is registered as None; it must go before a buffer can take its name",
    ),
    Attribute(owner="torch", name="_C", why="where autograd's saved-tensor hooks are found"),
    Attribute(
        owner="torch._C", name="_autograd", why="where autograd's saved-tensor hooks are found"
    ),
    Attribute(
        owner="vllm.v1.engine.core_client.InprocClient",
        name="_finalizer",
        why="shuts down every process group of this process when it is collected, unless detached",
    ),
)
