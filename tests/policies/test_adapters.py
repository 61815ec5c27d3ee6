"""LoRA adapters in folders of their own."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model

from tests.helpers.policy_factory import small_policy
from thinker.cli.main import main
from thinker.policies import load_policy
from thinker.policies.adapters import merge_lora


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


def merge(base, adapter, target):
    words = ["merge", "--model", base, "--adapter", adapter, "--to", target]
    return main(list(map(str, words)))


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
