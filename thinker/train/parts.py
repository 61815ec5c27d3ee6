"""What a stage trains: the parts of a policy, each with its learning rate.

`freeze_others` leaves gradients to the named parts only, `with_lora` puts LoRA beside them.
`split_by_part` gives the groups of an optimizer, which transformers has made by its own rule of
weight decay (none on biases and norms, of which `without_norms` finds the rest), the rates of the
parts that their parameters belong to. Schedules scale all of them alike.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.utils import ModulesToSaveWrapper

from thinker.config.run import IN_PLACE, GrpoStage, LoraSettings, StageSettings
from thinker.policies import Policy
from thinker.policies.shared_prompt import check_shared_prompt

HEAD = "lm_head"


def check_parts(stage: StageSettings, model: Any) -> None:
    """Raises ValueError for a part that a policy's model does not have, for a target of LoRA that
    is no linear layer of its language model, and for a supervised stage of a language model that
    takes no packed rows (a grpo stage has plain ones for it).

    model: the policy's, which may be without weights (on the meta device).
    """
    place = f"stages.{stage.name}"
    try:
        _check_names(stage.train, model)
        if not isinstance(stage, GrpoStage):
            check_shared_prompt(model)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    if "lora" in stage.train:
        linear = {
            name.rpartition(".")[2]
            for name, module in model.model.language_model.named_modules()
            if isinstance(module, torch.nn.Linear)
        }
        targets = (stage.lora or LoraSettings()).target_modules
        unknown = [name for name in targets if name not in linear]
        if unknown:
            raise ValueError(
                f"{place}.lora.target_modules names {', '.join(unknown)}, expected linear layers "
                f"of the language model: {', '.join(sorted(linear))}"
            )


def _check_names(rates: Mapping[str, float], model: Any) -> None:
    known = {"lora", *model.parts()}
    unknown = sorted(set(rates) - known)
    if unknown:
        raise ValueError(
            f"train names {', '.join(unknown)}, which this policy does not have; its parts are "
            f"{', '.join(sorted(known))}"
        )


def freeze_others(policy: Policy, rates: Mapping[str, float]) -> None:
    """Stop the gradients of all parts that no rate is given for; of the language model, too, where
    LoRA is trained in its place. Raises ValueError for a part that the policy does not have."""
    model = policy.model
    _check_names(rates, model)
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point())  # codes of 4 bits take none
    model.freeze([name for name in model.parts() if name not in rates])
    if "language_model" not in rates:
        model.get_output_embeddings().requires_grad_(False)


def split_by_part(optimizer: Any, model: Any, rates: Mapping[str, float]) -> None:
    """Divide every group of a new optimizer by the parts that its parameters belong to.

    model: the policy's own model, with LoRA layers in it where they are trained. Raises ValueError
    for an optimizer that DeepSpeed makes from its own configuration, which knows one rate only.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"the optimizer is a {type(optimizer).__name__}, which has one learning rate; leave "
            "optimizer out of the DeepSpeed configuration, so that each part gets its own"
        )
    part_of = {id(parameter): part for part, parameter in trained_parameters(model)}
    groups = []
    for group in optimizer.param_groups:
        own: dict[str, list[torch.nn.Parameter]] = {}
        for parameter in group["params"]:
            assert id(parameter) in part_of, "a parameter with gradient belongs to no part"
            own.setdefault(part_of[id(parameter)], []).append(parameter)
        groups += [{**group, "params": own[part], "lr": rates[part]} for part in own]
    optimizer.param_groups[:] = groups


def without_norms(names: Iterable[str], model: Any) -> list[str]:
    """Names of parameters but for those of normalisation layers. transformers' rule of weight decay
    knows layer norms and some names: the RMS norms of Qwen2.5-VL's tower (`norm1`) and SlowFast's
    batch norms (`norm_a`) pass it."""
    norms = {
        f"{place}.{name}"
        for place, module in model.named_modules()
        if "norm" in type(module).__name__.lower()
        for name, _ in module.named_parameters(recurse=False)
    }
    return [name for name in names if name not in norms]


def trained_parameters(model: Any) -> Iterator[tuple[str, torch.nn.Parameter]]:
    """Every parameter with gradient, with the name of its part."""
    seen: set[int] = set()
    modules = {**model.parts(), HEAD: model.get_output_embeddings()}
    for part, module in modules.items():
        for name, parameter in module.named_parameters():
            if parameter.requires_grad and id(parameter) not in seen:
                seen.add(id(parameter))
                is_update = ".lora_" in f".{name}"
                yield "lora" if is_update else part.replace(HEAD, "language_model"), parameter


def lora_config(
    settings: LoraSettings | None, policy: Policy, rates: Mapping[str, float]
) -> LoraConfig | None:
    """peft's configuration of the LoRA part, None where it is not trained.

    Projectors that are trained beside it are trained in full, as copies that peft puts in their
    place: without them, and without the updates, the model is the reference again.
    """
    if "lora" not in rates:
        return None
    settings = settings or LoraSettings()
    *vision, motion = policy.model.projector_names
    projectors = {"vision_projector": vision, "motion_projector": [motion]}
    return LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=rf".*language_model.*\.({'|'.join(settings.target_modules)})",
        modules_to_save=[name for part in projectors if part in rates for name in projectors[part]]
        or None,
    )


def with_lora(policy: Policy, stage: StageSettings, *, is_autocast: bool) -> Any:
    """The policy's model, with LoRA in it where a supervised stage trains that, and gradients for
    all parts that it trains.

    peft stops the gradients of every weight that was there before it, so those of parts that are
    trained in place are let through again. is_autocast: whether the trainer computes in half
    precision itself (`bf16`, `fp16`); then all that is trained is kept in float32, as peft keeps
    LoRA: a rate of 1e-6 is lost in the rounding of bfloat16. `merge_lora` takes both back.
    """
    lora = lora_config(stage.lora, policy, stage.train)
    if lora is None:
        return policy.model
    model = get_peft_model(policy.model, lora)
    for parameter in _parameters_in_place(policy.model, stage.train):
        parameter.requires_grad_(True)
    for parameter in model.parameters():
        if parameter.requires_grad and is_autocast:
            parameter.data = parameter.data.float()
    return model


def undo_rounding(model: Any) -> None:
    """Give what is trained on a base in 4 bits the types back that it would have on another.

    TRL rounds all of it to bfloat16, in which small rates are lost, and projectors in float32 begin
    as others than the reference's. Nothing was trained yet: the updates are zero, and copies of
    projectors are made anew. model: of peft.
    """
    for module in model.modules():
        if isinstance(module, ModulesToSaveWrapper):
            before = module.original_module.state_dict()
            for copy in module.modules_to_save.values():
                for name, parameter in copy.named_parameters():
                    parameter.data = before[name].clone()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and ".lora_" in name:
            parameter.data = parameter.data.float()


def _parameters_in_place(model: Any, rates: Mapping[str, float]) -> Iterator[torch.nn.Parameter]:
    for part in IN_PLACE:
        if part in rates:
            yield from model.parts()[part].parameters()


def trained_in_place(model: Any) -> dict[str, torch.Tensor]:
    """The weights that train in place beside LoRA, by part and name: what an adapter's own files
    do not hold. model: the policy's own, with LoRA in it."""
    parts = model.parts()
    return {
        f"{part}.{name}": parameter
        for part in IN_PLACE
        if part in parts
        for name, parameter in parts[part].named_parameters()
        if parameter.requires_grad
    }
