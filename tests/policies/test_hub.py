"""Names on a hub in the place of folders, against a stand-in for one on the loopback."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.hub_server import hub_server
from tests.helpers.places import REPO
from tests.helpers.policy_factory import small_policy
from thinker.cli.model_options import model_folder
from thinker.policies.hub import check_folder, local_folder, pinned, push_folder, split_name

FETCH_AND_SEND = """
import json, sys
from pathlib import Path

import torch

from thinker.policies import load_policy
from thinker.policies.hub import pinned

[first] = sys.argv[1:]
said = {}

def refused(name, call):
    try:
        call()
    except ValueError as error:
        said[name] = str(error)

newest, before = load_policy("lab/policy"), load_policy(f"lab/policy@{first}")
said["differ"] = not torch.equal(newest.model.lm_head.weight, before.model.lm_head.weight)
refused("nosuch", lambda: load_policy("lab/nosuch"))
refused("revision", lambda: load_policy("lab/policy@v9"))
refused("closed", lambda: before.push_to_hub("closed/copy"))
said["pinned"] = [str(pinned(Path(name))) for name in ("lab/policy", f"lab/policy@{first}")]
said["address"] = before.push_to_hub("lab/copy")
again = load_policy("lab/copy").model.state_dict()
said["equal"] = all(torch.equal(t, again[n]) for n, t in before.model.state_dict().items())
print(json.dumps(said))
"""

OFFLINE = """
from thinker.policies import load_policy

load_policy("lab/policy")
try:
    load_policy("lab/other")
except ValueError as error:
    print(error)
"""


@pytest.mark.slow
def test_a_name_stands_for_a_folder(tmp_path):
    policy = small_policy("internvl3")
    policy.save(tmp_path / "a")
    with torch.no_grad():
        policy.model.lm_head.weight.add_(1)
    policy.save(tmp_path / "b")
    with hub_server() as hub:
        first = hub.add_folder("lab/policy", tmp_path / "a")
        second = hub.add_folder("lab/policy", tmp_path / "b")
        given = {
            "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "hf_t",
            "HF_HUB_OFFLINE": "0",
        }  # fmt: skip

        def run(code, *words, **more):
            command = [sys.executable, "-c", code, *words]
            environment = {**os.environ, "PYTHONPATH": str(REPO), **given, **more}
            environment.pop("HF_HUB_CACHE", None)
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            return done.stdout.strip().splitlines()[-1]

        said = json.loads(run(FETCH_AND_SEND, first))
        assert said["pinned"] == [f"lab/policy@{second}", f"lab/policy@{first}"]
        assert said["differ"] and said["equal"]
        assert "none of this name" in said["nosuch"] and "lab/nosuch" in said["nosuch"]
        assert "no such revision" in said["revision"] and "lab/policy@v9" in said["revision"]
        assert said["closed"].startswith("closed/copy cannot be written on the hub: ")
        [(commit, files)] = hub.commits["lab/copy"].items()
        assert said["address"].endswith(commit) and hub.private == {"lab/copy": True}
        assert {"README.md", "config.json", "model.safetensors"} <= files.keys()
        # Once fetched, it is there without the hub.
        fetched = len(hub.fetched)
        message = run(OFFLINE, HF_HUB_OFFLINE="1")
        assert "lab/other" in message and "HF_HUB_OFFLINE" in message
        assert len(hub.fetched) == fetched


def test_names():
    assert split_name("org/name@refs/pr/1") == ("org/name", "refs/pr/1")
    assert split_name("name") == ("name", None)
    for name in ("../name", "a/b/c", "/a", "a/b@", "@v1", "a b/c", "org/name@../x"):
        with pytest.raises(ValueError, match="no name on the hub"):
            split_name(name)


def test_a_folder_is_itself_and_a_slip_is_not_sent_to_the_hub(tmp_path):
    assert local_folder(tmp_path) == pinned(tmp_path) == tmp_path
    with pytest.raises(ValueError, match="no such folder"):
        check_folder(tmp_path / "finall")  # its parent exists
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        local_folder(tmp_path / "file")


def test_a_missing_folder_with_a_dot_is_no_name_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    for text in ("./m/nope", "./nope", "../m/nope", ".m/nope", "/m/nope", "./m/../nope/"):
        with pytest.raises(ValueError, match="nope: there is no such folder"):
            check_folder(model_folder(text))
    for text in ("org/name", "org/name@v1", "./there", "."):
        assert model_folder(text) == Path(text)
        check_folder(model_folder(text))


def test_only_whole_policies_are_sent(tmp_path):
    with pytest.raises(ValueError, match="is no folder"):
        push_folder(tmp_path / "nosuch", "lab/policy")
    with pytest.raises(ValueError, match=r"neither model\.safetensors"):
        push_folder(tmp_path, "lab/policy")
