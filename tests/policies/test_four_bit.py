"""Language models in 4 bits: what is packed, what it weighs, what it stands for, LoRA merged."""

import dataclasses
from importlib.util import find_spec

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.helpers.policy_factory import BACKBONES, small_policy
from tests.helpers.rollout_oracle import EXACT, SAMPLING, largest_difference, prompts_of
from thinker.cli.main import main
from thinker.policies import four_bit, load_policy
from thinker.policies.adapters import BASE, merge_lora, write_base
from thinker.policies.encode import encode_prompts
from thinker.rollout.hf import hf_rollout
from thinker.rollout.vllm.folder import language_weights

needs_bitsandbytes = pytest.mark.skipif(
    find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
)


def states(model):
    """The tensors of every layer in 4 bits."""
    found = {}
    for name, layer in four_bit.packed_layers(model).items():
        state = layer.weight.quant_state
        scales = (state.absmax, state.code, state.offset, state.state2.absmax, state.state2.code)
        found[name] = [layer.weight.data, *scales]
    return found


@pytest.fixture(scope="module", params=BACKBONES)
def folder(request, tmp_path_factory):
    place = tmp_path_factory.mktemp("four_bit") / "base"
    small_policy(request.param).save(place)
    return place


@pytest.fixture
def adapted(folder):
    """A policy in 4 bits, with updates that are not zero on two of seven layers, and a projector
    that has moved."""
    policy = load_policy(folder, quantization="nf4")
    *projectors, _ = policy.model.projector_names
    layers = r".*language_model.*\.(q_proj|down_proj)"
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=layers, modules_to_save=projectors)
    model = get_peft_model(policy.model, lora).eval()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    return policy, model


@needs_bitsandbytes
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_language_models_linear_layers_are_packed_and_nothing_else(folder, dtype):
    whole = load_policy(folder, dtype=dtype).model
    policy = load_policy(folder, dtype=dtype, quantization="nf4")
    packed = states(policy.model)
    wanted = {
        f"model.language_model.{name}"
        for name, layer in whole.model.language_model.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    assert set(packed) == wanted
    weights = dict(whole.named_parameters())
    for name, parameter in policy.model.named_parameters():
        if name.removesuffix(".weight") not in wanted:
            assert torch.equal(parameter, weights[name]), name
            assert parameter.dtype == dtype, name
    held = sum(t.numel() * t.element_size() for tensors in packed.values() for t in tensors)
    assert held == sum(map(four_bit.packed_bytes, four_bit.packable(whole)))
    with pytest.raises(ValueError, match="in 4 bits; merge its LoRA"):
        policy.save(folder.parent / "packed")


@needs_bitsandbytes
def test_a_pass_without_gradient_changes_nothing(folder):
    """Not the weights, nor that gradients come through: bitsandbytes' kernel for some CPUs packs
    the weights anew in such a pass."""
    model = load_policy(folder, quantization="nf4").model
    before = {name: [t.clone() for t in tensors] for name, tensors in states(model).items()}
    ids = torch.arange(10, 20).unsqueeze(0)
    model.eval()
    with torch.no_grad():
        quiet = model(input_ids=ids).logits
    embeds = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeds).logits
    assert torch.equal(logits, quiet)
    logits.log_softmax(-1)[..., 20].sum().backward()
    assert embeds.grad.abs().min() > 0
    for name, tensors in states(model).items():
        assert all(map(torch.equal, tensors, before[name])), name


@needs_bitsandbytes
def test_rollouts_by_transformers_have_the_logprobs_of_the_policy(adapted):
    policy, model = adapted
    policy = dataclasses.replace(policy, model=model.get_base_model())
    prompts = prompts_of(policy)
    requests = encode_prompts(policy, prompts)
    groups = hf_rollout(policy).generate(requests, 2, SAMPLING, seed=1)
    assert largest_difference(policy, prompts, groups) < EXACT


@needs_bitsandbytes
def test_merged_is_what_the_codes_stand_for_plus_the_updates(folder, adapted, tmp_path):
    """The same in the trained policy, as it is saved, pushed to an engine and made by `merge`."""
    policy, model = adapted
    ids = torch.arange(10, 30).unsqueeze(0)
    model.save_pretrained(tmp_path / "adapter")
    write_base(tmp_path / "adapter", model)
    with torch.no_grad():
        expected = model(input_ids=ids).logits.log_softmax(-1)
    pushed = {n: t.clone() for n, t in language_weights(model.get_base_model())}
    merged = dataclasses.replace(policy, model=merge_lora(model))
    merged.save(tmp_path / "saved")
    words = ["--model", folder, "--adapter", tmp_path / "adapter", "--to", tmp_path / "merged"]
    assert main(["merge", *map(str, words)]) == 0
    saved, again = (load_policy(tmp_path / name).model for name in ("saved", "merged"))
    weights, others = saved.state_dict(), again.state_dict()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert all(torch.equal(weights[name], tensor) for name, tensor in pushed.items())
    assert saved.config.quantized_base == again.config.quantized_base == "nf4"
    with torch.no_grad():
        difference = saved(input_ids=ids).logits.log_softmax(-1) - expected
    assert difference.abs().max() < EXACT
    base = load_policy(folder).model.state_dict()
    changed = {name for name in weights if not torch.equal(weights[name], base[name])}
    assert len([n for n in changed if "language_model" in n]) == len(four_bit.packable(saved))


@needs_bitsandbytes
def test_weights_out_of_four_bits_lose_an_update_when_they_are_rounded_again():
    """Which is why a second stage on 4 bits is refused: an update of a hundredth of the weights
    moves few of them to another code. On weights that lie anywhere all of it is kept."""
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def rounded(weight):
        return dequantize_4bit(*quantize_4bit(weight, quant_type="nf4", compress_statistics=True))

    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(512, 512, generator=draw)
    update = torch.randn(512, 8, generator=draw) @ torch.randn(8, 512, generator=draw)
    update *= 0.01 * weight.norm() / update.norm()
    once = rounded(weight)

    def kept(before):
        return float(((rounded(before + update) - once) * update).sum() / update.square().sum())

    assert kept(once) < 0.1 and kept(weight) == pytest.approx(1, abs=0.1)


@needs_bitsandbytes
def test_a_base_file_that_says_something_else(folder, adapted, tmp_path, capsys):
    _, model = adapted
    model.save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / BASE).write_text('{"quantization": "int8"}')
    words = ["--model", folder, "--adapter", tmp_path / "adapter", "--to", tmp_path / "merged"]
    assert main(["merge", *map(str, words)]) == 2
    assert 'does not say {"quantization": "nf4"}' in capsys.readouterr().err


def test_without_bitsandbytes(folder, monkeypatch):
    monkeypatch.setattr(four_bit, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed; pip install 'vqa-thinker\[four-bit\]'"):
        load_policy(folder, quantization="nf4")
