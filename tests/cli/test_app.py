"""`thinker app`: what is said before weights are loaded."""

import importlib.util
import subprocess
import sys

import pytest

from tests.helpers.policy_factory import small_policy
from thinker.cli.main import main


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    small_policy("internvl3").save(folder)
    return str(folder)


@pytest.fixture
def no_weights(monkeypatch):
    def load(*given, **settings):
        raise AssertionError("the weights were loaded")

    monkeypatch.setattr("thinker.score.scorer.load_policy", load)


def test_help_imports_neither_gradio_nor_torch():
    code = (
        "import sys\nfrom thinker.cli.main import main\n"
        "try: main(['app', '--help'])\nexcept SystemExit: pass\n"
        "print({'gradio', 'torch', 'matplotlib'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n") and "without a password" in done.stdout


def test_without_the_extra_it_says_how_to_install_it(model, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "gradio" else find(name)
    )
    assert main(["app", model]) == 2
    message = "error: the app needs gradio; install it: pip install 'vqa-thinker[app]'\n"
    assert capsys.readouterr().err == message


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["nowhere/at/all"], "there is no such folder"),
        (["./m/nope"], "m/nope: there is no such folder"),
        (["MODEL", "--port", "70000"], "--port is 70000, expected 0 to 65535"),
        (["MODEL", "--max-upload", "0"], "max_upload_mb is 0"),
        (["MODEL", "--num-samples", "1"], "num_samples is 1"),
        (["MODEL", "--timeout", "0"], "timeout_seconds 0.0"),
        (["MODEL", "--host", "no such host"], "--host"),
    ],
)
def test_bad_options(model, options, message, no_weights, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: find("json"))
    assert main(["app", *(model if word == "MODEL" else word for word in options)]) == 2
    assert message in capsys.readouterr().err
