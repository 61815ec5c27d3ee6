"""Settings of TRL's that this trainer cannot work with, refused before anything is loaded."""

from trl import GRPOConfig

_UNSUPPORTED = {
    "load_best_model_at_end": "evaluate checkpoints with `thinker eval`",
    "save_only_model": "a run must be able to resume",
    "auto_find_batch_size": "it would change the update",
    "push_to_hub": "push the finished `final/` instead",
    "ignore_data_skip": "a resumed run must see the data of the uninterrupted one",
}


def check_settings(args: GRPOConfig) -> None:
    """Refuse settings under which a run could not resume exactly, or a group would be divided."""
    for name, instead in _UNSUPPORTED.items():
        if getattr(args, name):
            raise ValueError(f"grpo.{name} is not supported: {instead}")
    if args.save_strategy == "best":
        raise ValueError("grpo.save_strategy is best, expected steps, epoch or no")
    if args.per_device_train_batch_size % args.num_generations:
        raise ValueError(
            f"per_device_train_batch_size is {args.per_device_train_batch_size}, expected a "
            f"multiple of num_generations ({args.num_generations}): groups stay whole"
        )
