"""The names of tests/helpers/upstream.py: signatures, and what we rely on them to do."""

import ast
import functools
import gc
import importlib
import inspect
import re
import textwrap
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    DynamicCache,
    LlamaConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    TrainerCallback,
)
from transformers.masking_utils import create_causal_mask
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from tests.helpers.places import REPO
from tests.helpers.trainer_runs import GROUP, NUM_VIDEOS, make_trainer, rewards, scripted
from tests.helpers.upstream import ATTRIBUTES, METHODS, NAMES
from thinker.policies.registry import BACKBONES
from thinker.policies.shared_prompt import SharedPromptMask
from thinker.policies.shared_prompt.attention import ATTENTION
from thinker.train.grpo.trainer import ThinkerTrainer
from thinker.train.resume import EpochOrder, Moments, Resumable
from thinker.train.sft.trainer import SupervisedTrainer


def found(owner: str):
    """The class or module of a dotted path."""
    module, _, name = owner.rpartition(".")
    try:
        return importlib.import_module(owner)
    except ModuleNotFoundError:
        return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{m.owner}.{m.name}")
def test_signature(method):
    function = getattr(found(method.owner), method.name)
    try:
        parameters = [p for p in inspect.signature(function).parameters if p != "self"]
    except ValueError:  # of a builtin: called in test_saved_tensor_hooks
        return
    if method.name == "_get_per_token_logps_and_entropies":  # more media, all by keyword, follow
        assert parameters[: len(method.parameters)] == list(method.parameters)
    else:
        assert parameters == list(method.parameters)


OURS = {name: value for cls in (Resumable, ThinkerTrainer) for name, value in vars(cls).items()}
"""What the trainer and the mixin before it define."""

OVERRIDDEN = [method for method in METHODS if method.name in OURS]


@pytest.mark.parametrize("method", OVERRIDDEN, ids=lambda m: m.name)
def test_our_override_takes_the_same(method):
    """In the same order; where ours ends in a catch-all, it may name only the first ones, and
    others by keyword."""
    parameters = inspect.signature(OURS[method.name]).parameters.values()
    named = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    keywords = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        assert named == list(method.parameters[: len(named)])
        assert keywords <= set(method.parameters)
    else:
        assert named == list(method.parameters) and not keywords
    if method.name == "_get_per_token_logps_and_entropies":  # only media may fall into the rest
        assert named == list(method.parameters)


def resolved(path: str):
    """What a dotted path names: the longest part of it that is a module, then its attributes."""
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        try:
            place = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            assert error.name and path.startswith(error.name), error  # of something else
            continue
        return functools.reduce(getattr, parts[length:], place)
    raise AssertionError(f"{parts[0]} is not installed")


@pytest.mark.parametrize("name", NAMES, ids=lambda n: n.path)
def test_a_public_name_is_there_and_takes_what_we_pass(name):
    if name.path.startswith("vllm."):
        pytest.importorskip("vllm")
    thing = resolved(name.path)
    if name.passes or name.keywords:
        parameters = inspect.signature(thing).parameters
        order = [p for p in parameters if p != "self"]
        assert order[: len(name.passes)] == list(name.passes)
        assert set(name.keywords) <= set(order)


LIBRARIES = ("vllm", "transformers", "trl", "peft", "av")


def product() -> dict[Path, ast.Module]:
    """Every file of the product."""
    paths = (REPO / "thinker").rglob("*.py")
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in paths}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def own_names(tree: ast.Module) -> set[str]:
    """Names that a file makes itself: functions, classes, fields, and attributes of `self`."""
    own = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            own.add(node.name)
        if isinstance(node, ast.ClassDef):
            targets = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            own |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            holder = node.value
            own |= {node.attr} if isinstance(holder, ast.Name) and holder.id == "self" else set()
    return own


def touched_names() -> set[str]:
    """Private names that a file reads, writes, calls or imports and does not make itself."""
    touched = set()
    for tree in product().values():
        used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        touched |= used - own_names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                touched |= {alias.name for alias in node.names}
                touched |= set(str(node.module).split("."))
    return set(filter(is_private, touched))


def classes_on_foreign_ground() -> list[type]:
    """Our classes that extend one of another library's."""
    policies = [ours for b in BACKBONES.values() for ours in (b.model, b.model.backbone_class)]
    return [ThinkerTrainer, SupervisedTrainer, Resumable, Moments, EpochOrder, *policies]


def shared_names(cls: type) -> set[str]:
    """Names that our part of a class makes and that the other part has or uses: those of its
    attributes too, which only its source tells."""
    ours: set[str] = set()
    theirs: set[str] = set()
    for part in cls.__mro__[:-1]:
        if part.__module__.startswith("thinker."):
            tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
            ours |= own_names(tree) | set(vars(part))
        elif part.__module__ not in ("typing", "abc"):
            theirs |= set(vars(part)) | set(re.findall(r"\bself\.(\w+)", inspect.getsource(part)))
    # transformers keeps what it finds out of a class at the class, once it has made one of it.
    kept = ("__", "_can_set_attn_implementation_cached", "_can_set_experts_implementation_cached")
    return {name for name in ours & theirs if not name.startswith(kept)}


LISTED = {entry.name for entry in (*METHODS, *ATTRIBUTES)}


def test_the_table_is_complete():
    standard_library = {"_exit"}  # os._exit is public in spite of its name
    assert touched_names() - standard_library <= LISTED


@pytest.mark.parametrize("cls", classes_on_foreign_ground(), ids=lambda c: c.__name__)
def test_private_names_that_a_class_of_ours_shares_with_its_host_are_listed(cls):
    """An attribute that we take over on purpose, and also one of ours whose name is taken."""
    assert set(filter(is_private, shared_names(cls))) <= LISTED


def test_everything_that_the_trainer_overrides_is_listed():
    overridden = {name for name in OURS if hasattr(GRPOTrainer, name)}
    assert {name for name in overridden if not name.startswith("__")} <= LISTED


def test_imports_from_inside_a_library_are_listed():
    """What a library offers at its top is its interface; the rest of it is not."""
    imported = set()
    for tree in product().values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                top, _, inside = node.module.partition(".")
                if top in LIBRARIES and inside:
                    imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    paths = [name.path for name in NAMES]
    missing = {i for i in imported if not any(p == i or p.startswith(f"{i}.") for p in paths)}
    assert imported and not missing


# What they do


class Recorded(ThinkerTrainer):
    """Writes down which overridden method was called, in order."""


def record(name: str):
    plain = getattr(ThinkerTrainer, name)

    @functools.wraps(plain)
    def method(self, *args, **kwargs):
        self.calls.append(name)
        return plain(self, *args, **kwargs)

    return method


RECORDED = (
    "_generate_and_score_completions", "_tokenize_prompts", "_generate_single_turn",
    "_calculate_rewards", "_compute_loss", "_get_grad_norm", "_save_checkpoint",
    "_save_optimizer_and_scheduler", "_save_rng_state", "log",
)  # fmt: skip
for _name in RECORDED:
    setattr(Recorded, _name, record(_name))


def test_the_order_of_calls_in_a_step(tmp_path, monkeypatch):
    """Two updates on one batch of two micro-batches, a checkpoint after each update."""
    monkeypatch.setattr("tests.helpers.trainer_runs.ThinkerTrainer", Recorded)
    Recorded.calls = []
    trainer = make_trainer(
        tmp_path, rollout=scripted(), reward_list=rewards("regression"), max_steps=2,
        per_device_train_batch_size=NUM_VIDEOS * GROUP // 2, gradient_accumulation_steps=2,
        num_iterations=2, save_strategy="steps", save_steps=1,
    )  # fmt: skip
    trainer.train()
    generation = [
        "_generate_and_score_completions", "_tokenize_prompts", "_generate_single_turn",
        "_calculate_rewards",
    ]  # fmt: skip
    update = ["_compute_loss", "_compute_loss", "_get_grad_norm", "log"]
    saving = ["_save_checkpoint", "_save_optimizer_and_scheduler", "_save_rng_state"]
    assert Recorded.calls == [*generation, *update, *saving, *update, *saving, "log"]


class SumsAtEveryStep(TrainerCallback):
    """What the private sums hold after every step, before they are logged, and after it."""

    def __init__(self):
        self.steps, self.logged = [], []

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        self.steps.append((trainer._step, len(trainer._buffered_inputs), float(trainer._tr_loss)))

    def on_log(self, args, state, control, **kwargs):
        trainer = self.trainer
        metrics = {name: list(values) for name, values in trainer._metrics["train"].items()}
        self.logged.append((trainer._globalstep_last_logged, float(trainer._tr_loss), metrics))


def test_the_sums_that_a_checkpoint_holds(tmp_path):
    trainer = make_trainer(
        tmp_path, rollout=scripted(), reward_list=rewards("regression"), max_steps=4,
        per_device_train_batch_size=NUM_VIDEOS * GROUP // 2, gradient_accumulation_steps=2,
        num_iterations=2, logging_steps=2,
    )  # fmt: skip
    moments = SumsAtEveryStep()
    moments.trainer = trainer
    trainer.add_callback(moments)
    trainer.train()
    assert [step for step, _, _ in moments.steps] == [2, 4, 6, 8]  # micro-batches
    assert {buffered for _, buffered, _ in moments.steps} == {2}
    # `_tr_loss` is moved into `_total_loss_scalar` when it is logged; `_metrics` is cleared after.
    assert moments.logged[0][1] == 0.0 and moments.logged[0][0] in (0, 2)
    assert trainer._globalstep_last_logged == 4
    assert len(moments.logged[0][2]["reward"]) == 1  # one batch served both updates
    assert not trainer._metrics["train"]
    total = trainer.state.log_history[-1]["train_loss"] * trainer.state.global_step
    assert trainer._total_loss_scalar + float(trainer._tr_loss) == pytest.approx(total)
    # the newest rollouts of all processes stand last
    assert len(trainer._logs["advantages"]) >= NUM_VIDEOS * GROUP
    assert list(trainer._logs["rewards"]) == ["regression"]


def test_transformers_takes_a_step_too_many_at_max_steps(tmp_path):
    """The reason for our `_run_epoch`; where this fails, the override can go."""
    settings = dict(
        rollout=scripted(), reward_list=rewards("regression"), save_strategy="steps", save_steps=1,
        per_device_train_batch_size=NUM_VIDEOS * GROUP // 2,  # stops in the middle of an epoch
    )  # fmt: skip
    make_trainer(tmp_path, **settings).train()
    resumed = make_trainer(tmp_path, save_start=False, **settings)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 1
    plain = make_trainer(tmp_path, save_start=False, **settings)
    plain._run_epoch = functools.partial(GRPOTrainer._run_epoch, plain)
    plain.train(resume_from_checkpoint=True)
    assert plain.state.global_step == 2


def test_a_checkpoint_is_created_in_the_output_dir_that_transformers_asks_for(tmp_path):
    trainer = make_trainer(
        tmp_path, rollout=scripted(), reward_list=rewards("regression"), save_strategy="steps",
        save_steps=1,
    )  # fmt: skip
    asked = []
    trainer._get_output_dir = lambda trial: asked.append(trial) or str(tmp_path / "elsewhere")
    trainer.checkpoints.save = lambda write: write()  # without the renaming that follows
    trainer.train()
    assert asked and set(asked) == {None}
    saved = {path.name for path in (tmp_path / "elsewhere" / "checkpoint-1").iterdir()}
    assert {"model.safetensors", "trainer_state.json"} <= saved
    assert not list((tmp_path / "run").glob("checkpoint-*"))


def test_random_streams_are_asked_for_once_on_resume_and_before_the_first_step(tmp_path):
    """In the middle of an epoch, where batches are skipped first, and at its end."""
    settings = dict(
        rollout=scripted(), reward_list=rewards("regression"), save_strategy="steps", save_steps=1,
        per_device_train_batch_size=NUM_VIDEOS * GROUP // 2,  # two steps are an epoch
    )  # fmt: skip
    make_trainer(tmp_path, max_steps=2, **settings).train()
    for step in (1, 2):
        trainer = make_trainer(tmp_path, save_start=False, max_steps=step + 1, **settings)
        events = []
        load, update = trainer._load_rng_state, trainer.training_step
        trainer._load_rng_state = lambda folder: events.append(folder) or load(folder)  # noqa: B023
        trainer.training_step = lambda *a: events.append("step") or update(*a)  # noqa: B023
        folder = str(tmp_path / "run" / f"checkpoint-{step}")
        trainer.train(resume_from_checkpoint=folder)
        assert events == [folder, "step"]


class OfOurOwn(Qwen2ForCausalLM):
    """Not of transformers, by its module."""


def test_only_modules_that_no_checkpoint_filled_are_initialised(tmp_path, monkeypatch):
    """For a class from outside transformers, as ours are; its own are asked for every module, and
    only `transformers.initialization` spares what is filled there."""
    config = Qwen2Config(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    asked, plain = [], PreTrainedModel._init_weights

    def init_weights(self, module):
        asked.extend([module] if list(module.parameters(recurse=False)) else [])
        plain(self, module)

    monkeypatch.setattr(PreTrainedModel, "_init_weights", init_weights)
    OfOurOwn.from_pretrained(tmp_path)
    assert not asked
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model = OfOurOwn.from_pretrained(tmp_path)
    assert asked == [model.model.layers[1].mlp.up_proj]


def test_a_mask_that_is_no_tensor_reaches_the_mask_function():
    """Of any model that makes its mask by `create_causal_mask`, with keys cached or not."""
    mask = SharedPromptMask(
        prompt_BP=torch.ones(1, 3, dtype=torch.bool), num_completions=2, completion_length=2
    )
    config = LlamaConfig(hidden_size=8, num_attention_heads=2)
    config._attn_implementation = ATTENTION
    embeds = torch.zeros(1, 7, 8)
    assert mask.shape == (1, 1, 7, 7)
    for cache in (None, DynamicCache()):
        assert create_causal_mask(config, embeds, mask, cache) is mask
    config._attn_implementation = "sdpa"
    with pytest.raises((AttributeError, TypeError)):
        create_causal_mask(config, embeds, mask, None)


def test_trls_sampler_forgets_past_epochs():
    """The reason for `EpochOrder`: a new sampler's first epoch is the old one's first, not next."""

    def sampler():
        return RepeatSampler(list(range(8)), mini_repeat_count=1, batch_size=1, seed=3)

    one = sampler()
    first, second = list(one), list(one)
    assert first != second
    assert list(sampler()) == first


def test_saved_tensor_hooks():
    hooks = torch._C._autograd._top_saved_tensors_default_hooks
    assert hooks(False) is None

    def keep(tensor):
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, keep):
        assert hooks(False) == (keep, keep)


def test_a_linear_layer_registers_its_missing_bias():
    layer = torch.nn.Linear(2, 3, bias=False)
    assert "bias" in layer._parameters and layer._parameters["bias"] is None
    with pytest.raises(KeyError, match="already exists"):
        layer.register_buffer("bias", torch.zeros(3))


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllms_client_shuts_down_by_a_finalizer(monkeypatch):
    """With a core that only counts: a client that is collected shuts its core down, one whose
    finalizer is detached does not. The source is read besides, for an engine is too much to start
    here: `_finalizer` is the name of a weakref.finalize."""
    from vllm.v1.engine import core_client

    shut_down = []

    class Core:
        def __init__(self, name, *args, **kwargs):
            self.name = name

        def shutdown(self):
            shut_down.append(self.name)

    monkeypatch.setattr(core_client, "EngineCore", Core)
    for name, is_detached in (("left", False), ("detached", True)):
        client = core_client.InprocClient(name, None, False)
        assert client.engine_core.name == name
        if is_detached:
            client._finalizer.detach()
        del client
        gc.collect()
    assert shut_down == ["left"]
    source = inspect.getsource(core_client.InprocClient)
    assert "weakref.finalize" in source and "self._finalizer" in source


@pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed")
def test_an_engine_core_holds_what_we_shut_down():
    """By its source, since an engine is too much to start here; tests/rollout/test_vllm.py does."""
    from vllm.v1.engine.core import EngineCore

    source = inspect.getsource(EngineCore)
    assert "self.model_executor = " in source and "self.model_executor.shutdown()" in source
    assert re.search(r"self\.scheduler(: \w+)? = ", source)
    assert "self.scheduler.shutdown()" in source
