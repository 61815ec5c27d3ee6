"""LoRA adapters in folders of their own."""

import json
import re
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from tests.helpers.policy_factory import small_policy
from thinker.cli.main import main
from thinker.policies import load_policy
from thinker.policies.adapters import ADAPTER_WEIGHTS, BASE, merge_lora
from thinker.policies.shards import ADAPTER_CONFIG


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A policy, an adapter with updates that are not zero, and what training would have saved."""
    folder = tmp_path_factory.mktemp("adapter")
    policy = small_policy("internvl3")
    policy.save(folder / "base")
    layers = r".*language_model.*\.(q_proj|down_proj)"
    projector = policy.model.projector_names[0]
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=layers, modules_to_save=[projector])
    model = get_peft_model(policy.model, lora)
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder / "adapter")
    merged = {n: t.clone() for n, t in merge_lora(model).state_dict().items()}
    return folder, merged


@pytest.fixture
def given(folders, tmp_path):
    """A copy of the adapter, to be spoilt."""
    return shutil.copytree(folders[0] / "adapter", tmp_path / "given")


def edit_tensors(adapter, change):
    tensors = load_file(adapter / ADAPTER_WEIGHTS)
    save_file(change(tensors), adapter / ADAPTER_WEIGHTS)


def edit_config(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): t for name, t in tensors.items()}


def without(part):
    """Without the first tensor whose name holds `part`."""
    return lambda tensors: {n: t for n, t in tensors.items() if n != first(tensors, part)}


def filled(part, value):
    """With a number in the first tensor whose name holds `part`."""

    def change(tensors):
        tensors[first(tensors, part)].view(-1)[-1] = value
        return tensors

    return change


def first(tensors, part):
    return min(name for name in tensors if part in name)


def merge(base, adapter, target):
    words = ["merge", "--model", base, "--adapter", adapter, "--to", target]
    return main(list(map(str, words)))


def is_refused(base, adapter, place, capsys, message):
    """In one line, and nothing is written."""
    assert merge(base, adapter, place / "new") == 2
    err = capsys.readouterr().err
    error = err[err.index("error: ") :]  # behind the bars of loading
    assert re.search(message, error) and error.count("\n") == 1, err
    assert not (place / "new").exists()


def test_merged_weights_are_those_of_training(folders, tmp_path):
    folder, merged = folders
    assert merge(folder / "base", folder / "adapter", tmp_path / "merged") == 0
    before, after = (
        load_policy(f).model.state_dict() for f in (folder / "base", tmp_path / "merged")
    )
    changed = [name for name in merged if not torch.equal(before[name], after[name])]
    assert any("q_proj" in name for name in changed) and len(changed) > 4
    assert after.keys() == merged.keys()
    assert all(torch.equal(after[name], merged[name]) for name in merged)


def test_what_is_no_adapter_is_refused(folders, tmp_path, capsys):
    folder, _ = folders
    base, adapter = folder / "base", folder / "adapter"
    said = []
    for change in ("whole", "pickled", "other", "in place"):
        given = tmp_path / change
        shutil.copytree(base if change == "whole" else adapter, given)
        if change == "pickled":
            (given / "adapter_model.safetensors").rename(given / "adapter_model.bin")
        if change == "other":
            values = json.loads((given / "adapter_config.json").read_text())
            (given / "adapter_config.json").write_text(json.dumps(values | {"r": 3}))
        if change == "in place":
            (given / "in_place.safetensors").touch()
        assert merge(base, given, tmp_path / "new") == 2
        said.append(capsys.readouterr().err)
    assert "holds no adapter_config.json" in said[0]
    assert "holds no adapter_model.safetensors" in said[1]
    assert "does not fit" in said[2]
    assert "trained whole parts" in said[3]
    assert merge(base, adapter, tmp_path) == 2
    assert "expected a new folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (renamed(".language_model.layers", ".layers"), r"missing \['base_.*unexpected \['base_"),
        (renamed("multi_modal_projector", "mlp1"), r"missing .*multi_modal.*unexpected .*mlp1"),
        (without("lora_A"), r"missing \[[^,]*lora_A\.weight'\], unexpected \[\]"),
        (without("lora_B"), r"missing \[[^,]*lora_B\.weight'\], unexpected \[\]"),
        (without("projector"), r"missing \[[^,]*projector[^,]*\], unexpected \[\]"),
        (filled("lora_A", float("nan")), r"1 of \d+ tensors in .* NaN or infinity: .*lora_A"),
        (filled("projector", float("inf")), r"1 of \d+ tensors in .* NaN or infinity: .*projector"),
    ],
)
def test_other_tensors_than_those_of_the_adapted_model_are_refused(
    folders, given, tmp_path, capsys, change, message
):
    edit_tensors(given, change)
    is_refused(folders[0] / "base", given, tmp_path, capsys, f"does not fit.*{message}")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"target_modules": r".*language_model.*\.q_proj"},
            r"missing \[\], unexpected .*down_proj",
        ),
        ({"modules_to_save": None}, r"missing \[\], unexpected .*multi_modal_projector"),
        ({"use_dora": True}, r"missing .*lora_magnitude_vector.*unexpected \[\]"),
        ({"r": 3}, r"of another shape \(given, expected\) .*lora_A.*\(2, 32\), \(3, 32\)"),
        ({"target_modules": "("}, "does not fit"),
        ({"peft_type": None}, "has peft_type None, expected 'LORA'"),
        ({"peft_type": "NEW"}, "has peft_type 'NEW', expected 'LORA'"),
        ({"task_type": "nothing"}, "cannot be used: Invalid task type"),
    ],
)
def test_a_configuration_of_other_tensors_is_refused(
    folders, given, tmp_path, capsys, changes, message
):
    edit_config(given / ADAPTER_CONFIG, **changes)
    is_refused(folders[0] / "base", given, tmp_path, capsys, message)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (ADAPTER_CONFIG, b'{"r": ', "adapter_config.json is no JSON"),
        (ADAPTER_CONFIG, b"[]", "has peft_type None, expected 'LORA'"),
        (ADAPTER_WEIGHTS, b"", f"{ADAPTER_WEIGHTS} is no complete safetensors file"),
        (ADAPTER_WEIGHTS, None, f"{ADAPTER_WEIGHTS} is no complete safetensors file"),
    ],
)
def test_damaged_files_are_named(folders, given, tmp_path, capsys, name, content, message):
    path = given / name
    path.write_bytes(path.read_bytes()[:-10] if content is None else content)
    is_refused(folders[0] / "base", given, tmp_path, capsys, message)


def test_another_policy_is_refused(folders, tmp_path, capsys):
    """Four of the LoRA matrices of this adapter have the name and the shape of this policy's."""
    small_policy("qwen2_5_vl").save(tmp_path / "base")
    message = "unexpected .*multi_modal_projector"
    is_refused(tmp_path / "base", folders[0] / "adapter", tmp_path, capsys, message)


def test_an_adapter_is_no_policy(folders, tmp_path, capsys):
    adapter = folders[0] / "adapter"
    is_refused(adapter, adapter, tmp_path, capsys, "holds an adapter .*merge it first")


def test_an_adapter_is_merged_once(folders, given, tmp_path, capsys):
    merged = tmp_path / "merged"
    assert merge(folders[0] / "base", given, merged) == 0
    capsys.readouterr()
    is_refused(merged, given, tmp_path, capsys, "merged into this policy already")
    edit_tensors(given, lambda ts: {n: t * ("lora_B" not in n) for n, t in ts.items()})
    assert merge(merged, given, tmp_path / "same") == 0  # one that has learnt nothing is harmless


def test_lora_of_4_bits_is_merged_once(folders, given, tmp_path, capsys):
    base = shutil.copytree(folders[0] / "base", tmp_path / "base")
    edit_config(base / "config.json", quantized_base="nf4")
    (given / BASE).write_text('{"quantization": "nf4"}')
    is_refused(base, given, tmp_path, capsys, "a training on 4 bits is in this policy already")
