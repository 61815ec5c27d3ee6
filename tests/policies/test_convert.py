"""`thinker convert`: the released VQAThinker layout → a policy with the same numbers."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoProcessor, Qwen2TokenizerFast

from tests.helpers.converted import state_of
from tests.helpers.policy_factory import random_clip
from tests.helpers.released_factory import (
    PATCH,
    official_logits,
    official_query,
    write_released,
    write_shards,
)
from thinker.cli.main import main
from thinker.policies import Prompt, load_policy
from thinker.policies.convert import convert_released, internvl_chat, vqathinker, writing
from thinker.policies.convert.internvl_chat import resize_position_embedding
from thinker.policies.convert.internvl_names import our_names


@pytest.fixture(scope="module")
def released(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("released") / "VQAThinker"
    write_released(folder)
    return folder


@pytest.fixture
def source(released, tmp_path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(released, tmp_path / "source"))


@pytest.mark.parametrize(
    ("setting", "frames", "px", "divisor", "repeats"),
    [("6x448", 6, 448, 3, 6), ("12x560", 12, 560, 4, 4)],
)
def test_converted_policy_computes_what_the_released_code_does(
    released, tmp_path, setting, frames, px, divisor, repeats
):
    command = ["convert", "--from", str(released), "--to", str(tmp_path / "out")]
    assert main([*command, "--setting", setting]) == 0
    policy = load_policy(tmp_path / "out")
    policy.model.eval()
    assert policy.new_parts == ()
    clip = random_clip(policy, 0, height=px, width=px)
    assert len(clip.keyframes_KCHW) == frames
    tokens = (px // PATCH // 2) ** 2
    query = official_query(setting, frames, tokens)
    ids = torch.tensor([Qwen2TokenizerFast.from_pretrained(released)(query)["input_ids"]])
    assert policy.inputs.prompt_ids(Prompt(clips=(clip,))) == ids[0].tolist()
    config = json.loads((released / "config.json").read_text())
    expected = official_logits(
        state_of(released), config, ids, clip.keyframes_KCHW, divisor, repeats
    )
    with torch.no_grad():
        got = policy.model(input_ids=ids, media_inputs=policy.inputs.media_inputs([clip])).logits
    placeholder = policy.model.config.image_token_id  # ruled out by our head, on purpose
    got[..., placeholder] = expected[..., placeholder]
    scale = expected.abs().max()
    assert scale > 1
    assert (got - expected).abs().max() < 1e-5 * scale
    if setting != "6x448":  # once is enough for the following
        return
    # Both kinds of embedding matter this much: a wrong one could not hide in the tolerance.
    other = random_clip(policy, 1, height=px, width=px)
    media = policy.inputs.media_inputs([clip])
    for name in ("pixel_values", "motion_frames"):
        changed = media | {name: policy.inputs.media_inputs([other])[name]}
        with torch.no_grad():
            moved = policy.model(input_ids=ids, media_inputs=changed).logits
        moved[..., placeholder] = expected[..., placeholder]
        assert (moved - expected).abs().max() > 1e-3 * scale, name


def test_every_tensor_arrives_unchanged(released, tmp_path):
    """At 448 px nothing is resampled: joining q, k, v gives back the source, tensor by tensor."""
    count = convert_released(released, tmp_path / "out", setting="6x448")
    theirs, ours = state_of(released), state_of(tmp_path / "out")
    used = set()
    for key, tensor in theirs.items():
        names = our_names(key)
        assert len(names) == (3 if ".qkv." in key else 1), key
        used |= set(names)
        joined = torch.cat([ours[n] for n in names]) if len(names) > 1 else ours[names[0]]
        assert torch.equal(joined, tensor) and joined.dtype == tensor.dtype, key
    assert used == set(ours) and count == len(ours) == len(theirs) + 2 * 4  # four fused qkv
    policy = load_policy(tmp_path / "out")
    loaded = policy.model.state_dict()
    assert set(loaded) == set(ours)
    assert all(torch.equal(loaded[name], ours[name]) for name in ours)


def test_other_files_of_the_target(released, tmp_path):
    target = tmp_path / "nested" / "out"
    convert_released(released, target)
    processor = AutoProcessor.from_pretrained(target)
    assert type(processor).__name__ == "InternVLProcessor"
    image_processor = processor.image_processor
    assert list(image_processor.image_mean) == [0.485, 0.456, 0.406]
    assert dict(image_processor.size) == {"height": 560, "width": 560}
    policy = load_policy(target)
    end = policy.tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert policy.model.generation_config.eos_token_id == policy.tokenizer.eos_token_id == end
    rope = policy.model.config.text_config.rope_parameters
    assert (rope["rope_type"], rope["factor"], rope["rope_theta"]) == ("dynamic", 2.0, 1e6)
    motion = policy.inputs.motion_config
    assert (motion.mode, motion.num_keyframes) == ("pooled", 12)
    card = (target / "README.md").read_text()
    assert "12 keyframes" in card and "560 x 560" in card and "setting 12x560" in card
    assert not list(target.parent.glob(".*")), "no temporary folder may stay"
    index = json.loads((target / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {p.name for p in target.glob("*.safetensors")}


def test_a_single_file_and_bfloat16(released, tmp_path):
    """A position embedding in bfloat16 is resampled in float32 and rounded once."""
    source = Path(shutil.copytree(released, tmp_path / "source"))
    state = {k: t.bfloat16() if t.is_floating_point() else t for k, t in state_of(source).items()}
    for path in source.glob("model*"):
        path.unlink()
    write_shards(source, state, 1)
    config = json.loads((source / "config.json").read_text()) | {"torch_dtype": "bfloat16"}
    (source / "config.json").write_text(json.dumps(config))
    convert_released(source, tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        got = file.get_tensor("model.vision_tower.embeddings.position_embeddings")
    old = state["vision_model.embeddings.position_embedding"].float()
    grid = old[:, 1:].transpose(1, 2).reshape(1, -1, 8, 8)
    grid = F.interpolate(grid, size=(10, 10), mode="bicubic", align_corners=False)
    expected = torch.cat([old[:, :1], grid.flatten(2).transpose(1, 2)], 1).bfloat16()
    assert got.shape == (1, 101, 16) and torch.equal(got, expected)
    assert load_policy(tmp_path / "out", dtype=torch.bfloat16).model.dtype == torch.bfloat16


def test_a_converted_policy_reads_as_the_published_programs(source, tmp_path):
    convert_released(source, tmp_path / "out")
    spec = load_policy(tmp_path / "out").inputs.clip_spec
    assert (spec.reader, spec.resampler, spec.deinterlace) == ("decord", "pil", "none")


def test_resampling_to_the_same_grid_changes_nothing():
    embedding = torch.randn(1, 65, 4)
    assert resize_position_embedding(embedding, 8) is embedding


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def test_peak_memory_is_about_one_shard(tmp_path):
    """A checkpoint of 7 shards of 24 MB grows the process by less than 2.5 of them."""
    write_released(tmp_path / "source", num_shards=7, mlp=224 * 1024)
    sizes = [path.stat().st_size for path in (tmp_path / "source").glob("*.safetensors")]
    shard = max(sizes)
    assert len(sizes) == 7 and sum(sizes) > 6 * shard and shard > 20e6
    internvl_chat.read_headers(tmp_path / "source")  # lazy imports
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak (Linux, proc(5))
    except OSError:
        pytest.skip("the peak of this process cannot be reset")
    before = _status("VmRSS")
    convert_released(tmp_path / "source", tmp_path / "out")
    assert _status("VmHWM") - before < 2.5 * shard


# Bad input: the message names what is wrong, and nothing stays behind


def fails(source: Path, match: str) -> str:
    target = source.parent / "out"
    before = {path.name for path in source.parent.iterdir()}
    with pytest.raises(ValueError, match=match) as error:
        convert_released(source, target)
    assert {path.name for path in source.parent.iterdir()} == before
    return str(error.value)


def edit_shard(source: Path, change) -> None:
    """Rewrite the weights after `change(state)`, in one file."""
    state = state_of(source)
    change(state)
    for path in source.glob("model*"):
        path.unlink()
    write_shards(source, state, 1)


def test_unknown_and_missing_keys_are_listed(source):
    def change(state):
        del state["vision_model.encoder.layers.1.attn.qkv.bias"]
        del state["motion_mlp.3.weight"]
        state["vision_model.encoder.layers.7.ls1"] = torch.zeros(16)
        state["mlp2.0.weight"] = torch.zeros(1)

    edit_shard(source, change)
    message = fails(source, "does not hold the weights")
    assert message.splitlines()[1:] == [
        "missing: motion_mlp.3.weight",
        "missing: vision_model.encoder.layers.1.attn.qkv.bias",
        "unknown: mlp2.0.weight",
        "unknown: vision_model.encoder.layers.7.ls1",
    ]


def test_wrong_hidden_size_is_named(source):
    config = json.loads((source / "config.json").read_text())
    config["llm_config"]["hidden_size"] = 64
    (source / "config.json").write_text(json.dumps(config))
    message = fails(source, r"shape of mlp1.3.bias: \(32,\), expected \(64,\) by config.json")
    assert "shape of motion_mlp.3.weight: (32, 32), expected (64, 64)" in message


def test_truncated_shard_is_named(source):
    path = sorted(source.glob("*.safetensors"))[1]
    path.write_bytes(path.read_bytes()[:-100])
    fails(source, f"{path.name} is no complete safetensors file")


def test_missing_shard_is_named(source):
    path = sorted(source.glob("*.safetensors"))[1]
    path.unlink()
    fails(source, f"{path.name} is listed in the index but does not exist")


def test_index_that_disagrees_with_its_shards(source):
    path = source / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["mlp1.9.weight"] = next(iter(index["weight_map"].values()))
    path.write_text(json.dumps(index))
    assert fails(source, "disagree about").endswith("mlp1.9.weight")


def test_pickle_is_refused(source):
    for path in source.glob("model*"):
        path.unlink()
    torch.save({"a": torch.zeros(1)}, source / "pytorch_model.bin")
    fails(source, r"pytorch_model.bin'\] may run code when read and are refused")


def test_another_architecture_is_named(source):
    config = json.loads((source / "config.json").read_text())
    config["llm_config"]["architectures"] = ["InternLM2ForCausalLM"]
    config["template"] = "phi3-chat"
    (source / "config.json").write_text(json.dumps(config))
    message = fails(source, "is not of the released layout of VQAThinker")
    assert "llm_config.architectures is ['InternLM2ForCausalLM']" in message
    assert "template is 'phi3-chat', expected one of internvl2_5" in message


def test_plain_internvl_has_no_motion(source):
    edit_shard(
        source, lambda state: [state.pop(k) for k in list(state) if k.startswith(("slowf", "moti"))]
    )
    fails(source, "a plain checkpoint has no motion branch")


def test_tokenizer_without_the_image_tokens(source):
    for name in ("tokenizer_config.json", "added_tokens.json"):
        text = (source / name).read_text().replace("<IMG_CONTEXT>", "<IMG_CTX>")
        (source / name).write_text(text)
    fails(source, "does not know <IMG_CONTEXT>")


def test_no_tokenizer_no_config_existing_target(source, tmp_path, capsys):
    (source / "vocab.json").unlink()
    fails(source, "holds no Qwen2 tokenizer")
    (source / "config.json").unlink()
    fails(source, "holds no config.json")
    (tmp_path / "there").mkdir()
    assert main(["convert", "--from", str(source), "--to", str(tmp_path / "there")]) == 2
    assert "exists; give a folder that does not" in capsys.readouterr().err
    command = ["convert", "--from", str(source), "--to", str(tmp_path / "new"), "--layout", "other"]
    assert main(command) == 2
    assert "layout is 'other', expected one of vqathinker, vital" in capsys.readouterr().err


def test_failure_while_writing_leaves_nothing(source, monkeypatch):
    calls = []

    def full_disk(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise OSError("no space left on device")
        save_file(*args, **kwargs)

    monkeypatch.setattr(writing, "save_file", full_disk)
    before = {path.name for path in source.parent.iterdir()}
    with pytest.raises(OSError, match="no space left"):
        convert_released(source, source.parent / "out")
    assert {path.name for path in source.parent.iterdir()} == before


def test_load_policy_sends_the_released_layout_here(released):
    with pytest.raises(ValueError, match=r"'internvl_chat'.*`thinker convert`"):
        load_policy(released)


def test_settings_are_frozen_facts():
    """As read in the published code: frames, side, slow divisor, repeats, white space."""
    assert {
        name: dataclasses.astuple(setting) for name, setting in vqathinker.SETTINGS.items()
    } == {
        "6x448": (6, 448, 3, 6, "lines"),
        "12x560": (12, 560, 4, 4, "inline"),
    }
