"""The private names of tests/helpers/upstream.py: signatures, and what we rely on them to do."""

import ast
import functools
import importlib
import inspect
from importlib.util import find_spec

import pytest
import torch
from transformers import TrainerCallback
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler

from tests.helpers.places import REPO
from tests.helpers.trainer_runs import GROUP, NUM_VIDEOS, make_trainer, rewards, scripted
from tests.helpers.upstream import ATTRIBUTES, METHODS
from thinker.train.grpo.trainer import ThinkerTrainer


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


OVERRIDDEN = [method for method in METHODS if method.name in vars(ThinkerTrainer)]


@pytest.mark.parametrize("method", OVERRIDDEN, ids=lambda m: m.name)
def test_our_override_takes_the_same(method):
    parameters = inspect.signature(vars(ThinkerTrainer)[method.name]).parameters.values()
    named = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name != "self"]
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        assert set(named) <= set(method.parameters)
    else:
        assert named == list(method.parameters)


def touched_names() -> set[str]:
    """Private names in the product that are not of the product's own making."""
    own, used = set(), set()
    for path in (REPO / "thinker").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                (own if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
                if isinstance(node, ast.ClassDef):
                    own |= {
                        item.target.id
                        for item in node.body
                        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                    }
    inherited = {name for name in vars(ThinkerTrainer) if hasattr(GRPOTrainer, name)}
    return {n for n in (used - own) | inherited if n.startswith("_") and not n.startswith("__")}


def test_the_table_is_complete():
    """Written attributes (`trainer._step = …`) are the exception: Checkpoints restores them, so
    they count as our own above and are named here."""
    listed = {entry.name for entry in (*METHODS, *ATTRIBUTES)}
    restored = {"_step", "_buffered_inputs", "_tr_loss", "_total_loss_scalar"}
    restored |= {"_globalstep_last_logged"}
    standard_library = {"_exit"}  # os._exit is public in spite of its name
    assert restored <= listed
    assert touched_names() - standard_library <= listed


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


class Moments(TrainerCallback):
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
    moments = Moments()
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
def test_vllms_client_shuts_down_by_a_finalizer():
    from vllm.v1.engine.core_client import InprocClient

    assert "weakref.finalize" in inspect.getsource(InprocClient)
    assert "self._finalizer" in inspect.getsource(InprocClient)
