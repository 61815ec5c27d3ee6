"""`thinker convert` on released folders with a broken file: one line that names it, and nothing is
written."""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.released_factory import SLOWFAST, write_released
from tests.helpers.released_vida import write_vida
from tests.helpers.vqa2_factory import write_vqa2
from thinker.policies.convert import convert_released


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("released")
    write_released(root / "vital", channels=SLOWFAST.fast_channels)
    write_vqa2(root / "vqa2")
    write_vida(root / "vida")
    return {path.name: path for path in root.iterdir()}


@pytest.fixture
def source(folders, tmp_path, layout) -> Path:
    """A copy of links, whose files a test may replace."""
    return Path(shutil.copytree(folders[layout], tmp_path / "source", copy_function=os.link))


def said(source: Path) -> str:
    target = source.parent / "out"
    with pytest.raises(ValueError) as error:
        convert_released(source, target)
    assert not target.exists() and "\n" not in str(error.value)
    return str(error.value)


def replace(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    path.write_bytes(content)


LAYOUTS = ("vital", "vqa2", "vida")
TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")


@pytest.mark.parametrize(
    ("layout", "name", "content", "problem"),
    [
        *((layout, "config.json", b"[]", "holds [], expected") for layout in LAYOUTS),
        ("vital", "config.json", b"{x", "is not JSON"),
        ("vital", "config.json", b"\xff{}", "is not JSON"),
        *((layout, "vocab.json", b"{x", "is not JSON") for layout in LAYOUTS[:2]),
        ("vida", "tokenizer.json", b"{}", "holds no Qwen2-VL processor"),
        ("vida", "preprocessor_config.json", b"[]", "holds no Qwen2-VL processor"),
        ("vida", "generation_config.json", b"{x", "is not JSON"),
        ("vida", "generation_config.json", b"[]", "holds [], expected"),
    ],
)
def test_a_broken_file(source, name, content, problem):
    replace(source / name, content)
    place = source if "processor" in problem else source / name
    assert f"{place} {problem}" in said(source)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("left", [None, "merges.txt"])
def test_a_folder_without_a_tokenizer(source, left):
    """transformers would make an empty one."""
    for name in set(TOKENIZER) - {left}:
        (source / name).unlink(missing_ok=True)
    assert f"{source} holds no Qwen2 tokenizer, expected tokenizer.json, or" in said(source)


FIELDS = [
    ("hidden_size", "32"),
    ("num_attention_heads", 0),
    ("hidden_act", "swash"),
    ("torch_dtype", "float7"),
    ("rope_scaling.type", "no_such"),
    ("rms_norm_eps", "small"),
]
INSIDE = {"vital": "llm_config."}


@pytest.mark.parametrize(
    ("layout", "field", "value"),
    [
        *((layout, INSIDE.get(layout, "") + f, v) for layout in LAYOUTS for f, v in FIELDS),
        ("vital", "torch_dtype", "float7"),
        ("vital", "vision_config.patch_size", 0),
        ("vital", "vision_config.hidden_act", "swash"),
        ("vital", "vision_config", []),
        ("vida", "vision_config.depth", "x"),
        ("vida", "level_config", {}),
    ],
)
def test_a_field_of_the_configuration(source, field, value):
    values = json.loads((source / "config.json").read_text())
    *sections, key = field.split(".")
    inner = values
    for name in sections:
        inner = inner[name]
    inner[key] = value
    replace(source / "config.json", json.dumps(values).encode())
    message = said(source)
    assert message.startswith(str(source / "config.json"))
    assert (key if key == "rms_norm_eps" else field) in message  # transformers knows no sections


@pytest.mark.parametrize("layout", ["vida"])
def test_heads_that_the_sections_do_not_fill(source):
    values = json.loads((source / "config.json").read_text()) | {"num_attention_heads": 3}
    replace(source / "config.json", json.dumps(values).encode())
    message = said(source)
    assert "mrope_section is [2, 3, 3]" in message and "tiny" not in message
