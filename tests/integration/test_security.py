"""Malicious files that would leave a mark: none of them may.

Every payload creates the file MARK when it runs; each test first shows that the payload works.
"""

import ast
import http.server
import json
import os
import pickle
import re
import socket
import threading
import time
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import load_file, save, save_file

from rewards import build_reward
from tests.helpers.places import REPO
from tests.helpers.video_checks import SPEC, assert_right_frames, files_of, reason_of
from tests.helpers.video_factory import write_video
from thinker.config.run import load_run_config
from thinker.data.datasets import load_dataset_config
from thinker.data.read import line_rules, scan_meta_json, scan_train_jsonl
from thinker.data.scale import MosScale
from thinker.policies.motion import read_slowfast_checkpoint
from thinker.policies.shards import read_headers
from thinker.video import FrameCache, VideoError
from thinker.video.file import require_regular

SCALE = MosScale(min=0, max=100, mapping="linear")


class Payload:
    """Pickles to a call that creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.fixture
def mark(tmp_path):
    """The path that a payload creates; absent before and after the test."""
    path = tmp_path / "MARK"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists(), "the payload works where it is run"
    path.unlink()
    yield path
    assert not path.exists(), "a payload was run"


# --- checkpoints ---


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pyth"])
def test_pickled_slowfast_weights(tmp_path, mark, suffix):
    path = tmp_path / f"slowfast{suffix}"
    torch.save({"model_state": {"w": torch.zeros(1)}, "x": Payload(mark)}, path)
    with pytest.raises((ValueError, pickle.UnpicklingError)):
        read_slowfast_checkpoint(path)


def test_a_checkpoint_of_pickles_only(tmp_path, mark):
    torch.save({"w": Payload(mark)}, tmp_path / "pytorch_model.bin")
    torch.save({"w": Payload(mark)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"pytorch_model\.bin.*may run code.*refused"):
        read_headers(tmp_path)


@pytest.fixture(scope="module")
def saved_policy(tmp_path_factory):
    from tests.helpers.policy_factory import small_policy

    folder = tmp_path_factory.mktemp("policy")
    small_policy("internvl3").save(folder)
    return folder


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    return target


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.slow
def test_pickles_beside_good_weights_are_not_read(saved_policy, tmp_path, mark):
    from thinker.policies import load_policy

    folder = copy_of(saved_policy, tmp_path / "copy")
    for name in ("pytorch_model.bin", "optimizer.pt", "training_args.bin", "scheduler.pt"):
        torch.save({"w": Payload(mark)}, folder / name)
    load_policy(folder)
    (folder / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "base_model_name_or_path": "elsewhere"})
    )
    torch.save({"w": Payload(mark)}, folder / "adapter_model.bin")
    with pytest.raises(ValueError, match="holds an adapter"):
        load_policy(folder)


@pytest.mark.slow
def test_custom_code_of_a_checkpoint_is_not_run(saved_policy, tmp_path, mark):
    from thinker.policies import load_policy

    folder = copy_of(saved_policy, tmp_path / "copy")
    (folder / "evil.py").write_text(
        f"open({str(mark)!r}, 'w')\nclass Config: pass\nclass Model: pass\nclass Processor: pass\n"
    )
    auto_map = {
        "AutoConfig": "evil.Config",
        "AutoModelForImageTextToText": "evil.Model",
        "AutoModelForCausalLM": "evil.Model",
        "AutoProcessor": "evil.Processor",
        "AutoTokenizer": ["evil.Processor", "evil.Processor"],
        "AutoImageProcessor": "evil.Processor",
    }
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        if (folder / name).exists():
            edit_json(folder / name, auto_map=auto_map)
    try:
        load_policy(folder)  # with its own code: ours, registered
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    edit_json(folder / "config.json", model_type="evil")
    with pytest.raises(ValueError, match="model_type"):
        load_policy(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "a/b", "", ".."])
def test_an_index_names_files_of_its_own_folder_only(tmp_path, name):
    save_file({"w": torch.zeros(2)}, tmp_path / "secret.safetensors")
    folder = tmp_path / "model"
    folder.mkdir()
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(ValueError, match="files in the same folder"):
        read_headers(folder)
    for broken in ("[]", "{", '{"weight_map": 3}', '{"weight_map": {"w": 3}}', "[" * 9999):
        index.write_text(broken)
        with pytest.raises(ValueError, match="expected a weight_map"):
            read_headers(folder)


def test_a_pickled_optimizer_state_stops_the_resume(tmp_path, mark):
    """The real trainer's resume, as used by training."""
    from transformers import Trainer, TrainingArguments

    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir()
    torch.save({"state": Payload(mark)}, checkpoint / "optimizer.pt")
    torch.save({"x": Payload(mark)}, checkpoint / "scheduler.pt")
    args = TrainingArguments(output_dir=str(tmp_path / "out"), report_to=[], use_cpu=True)
    trainer = Trainer(model=torch.nn.Linear(1, 1), args=args)
    trainer.create_optimizer_and_scheduler(num_training_steps=1)
    with pytest.raises(pickle.UnpicklingError, match=r"(?i)weights.only"):
        trainer._load_optimizer_and_scheduler(str(checkpoint))
    torch.save({"python": Payload(mark)}, checkpoint / "rng_state.pth")
    with pytest.raises(pickle.UnpicklingError, match=r"(?i)weights.only"):
        trainer._load_rng_state(str(checkpoint))


# --- configurations ---

TAGS = (
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/name:os.system ''",
    "!!python/module:os ''",
    "!!python/object:thinker.config.run.RunConfig {{}}",
)


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_build_nothing(tmp_path, mark, tag):
    path = tmp_path / "evil.yaml"
    value = tag.format(mark=mark)
    path.write_text(f"seed: {value}\n")
    with pytest.raises(ValueError, match="is not YAML"):
        load_run_config(path)
    path.write_text(f"name: {value}\n")
    with pytest.raises(ValueError, match="is not YAML"):
        load_dataset_config(path)
    path.write_text("seed: 1\n")
    with pytest.raises(ValueError, match="is not YAML"):
        load_run_config(path, [f"seed={value}"])


def test_yaml_that_would_unfold_and_keys_given_twice(tmp_path):
    path = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path.write_text("\n".join(lines))
    began = time.monotonic()
    with pytest.raises(ValueError, match="an alias; write the value out"):
        load_run_config(path)
    assert time.monotonic() - began < 5
    path.write_text("seed: 1\nseed: 2\n")
    with pytest.raises(ValueError, match="a key twice"):
        load_run_config(path)
    reward = "{name: format, weight: .nan}"
    data, train = "[{config: d.yaml}]", "{lora: 1e-4}"
    stage = f"name: g, kind: grpo, data: {data}, train: {train}, rewards: [{reward}]"
    path.write_text(f"stages: [{{{stage}}}]\n")
    with pytest.raises(ValueError, match=r"weight is nan, expected a finite number"):
        load_run_config(path)


@pytest.mark.parametrize(
    "name", ["subprocess.Popen", "subprocess.run", "os.system", "builtins.exec"]
)
def test_a_reward_of_a_configuration_cannot_run_a_command(mark, name):
    with pytest.raises(ValueError, match=r"without a method|is a function|is a builtin"):
        build_reward(name, {"args": f"touch {mark}", "shell": True})


# --- data files ---


@pytest.mark.parametrize(
    "video",
    ["../out.mp4", "/etc/passwd", "link/out.mp4", "link.mp4", "a/../../out.mp4", "http://x/y"],
)
def test_paths_stay_below_the_video_root(tmp_path, video):
    root = tmp_path / "root"
    root.mkdir()
    write_video(tmp_path / "out.mp4", num_frames=2)
    (root / "link").symlink_to(tmp_path)
    (root / "link.mp4").symlink_to(tmp_path / "out.mp4")
    line = {"id": 1, "dataset_name": "x", "image": [video], "conversations": [
        {"from": "human", "value": ""}, {"from": "gpt", "value": 3}]}  # fmt: skip
    (tmp_path / "t.jsonl").write_text(json.dumps(line))
    meta = {"annotations": [{"image_id": video, "ann_type": "score", "score": 3}]}
    (tmp_path / "m.json").write_text(json.dumps(meta))
    rules = line_rules(root, SCALE, None, require_files=True)
    for loaded in (
        scan_train_jsonl(tmp_path / "t.jsonl", rules),
        scan_meta_json(tmp_path / "m.json", rules, "x"),
    ):
        assert not loaded.examples and len(loaded.bad_lines) == 1


def test_csv_cells_are_no_formulas():
    rows = pytest.importorskip("thinker.eval.rows", reason="the CSV writer of evaluations")
    for text in ("=1+1", "+1", "-1", "@x", "\t=1", "\r=1", "\n=1", "\0=1"):
        cell = rows.safe_cell(text)
        assert cell.startswith("'") and "\0" not in cell
    assert rows.safe_cell("sharp") == "sharp"


# --- videos ---


class Listener:
    """A loopback server that notes who called."""

    def __init__(self, folder: Path) -> None:
        self.requests: list[str] = []
        requests = self.requests

        class Handler(http.server.SimpleHTTPRequestHandler):
            def __init__(self, *args):
                super().__init__(*args, directory=str(folder))

            def log_message(self, *args):
                requests.append(self.path)

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def listener(tmp_path):
    folder = tmp_path / "served"
    folder.mkdir()
    write_video(folder / "decoy.ts", num_frames=12)
    listener = Listener(folder)
    yield listener
    listener.close()


def scripts(url: str, decoy: Path) -> dict[str, str]:
    """Files that make a plain FFmpeg read something else."""
    hls = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{}\n#EXT-X-ENDLIST\n"
    return {
        "hls-http": hls.format(f"{url}/decoy.ts"),
        "hls-file": hls.format(decoy),
        "concat-file": f"ffconcat version 1.0\nfile '{decoy}'\n",
        "concat-http": f"ffconcat version 1.0\nfile '{url}/decoy.ts'\n",
        "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
        "m=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
        'mediaPresentationDuration="PT2S" profiles="urn:mpeg:dash:profile:full:2011"><Period>'
        f'<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{url}/'
        "decoy.ts</BaseURL></Representation></AdaptationSet></Period></MPD>",
    }


def open_plainly(path: Path, **options: str) -> None:
    """What a reader without lists of formats and protocols would do."""
    with av.open(str(path), options=options) as container:
        next(container.decode(video=0))


@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".ts"])
def test_playlists_and_scripts_open_nothing_else(tmp_path, listener, suffix):
    decoy = tmp_path / "served" / "decoy.ts"
    for name, text in scripts(listener.url, decoy).items():
        path = tmp_path / f"{name}{suffix}"
        path.write_text(text)
        before = decoy.stat().st_atime_ns
        os.utime(decoy, ns=(1, decoy.stat().st_mtime_ns))  # relatime notes the next reading
        assert reason_of(path) in ("not_a_video", "decode_error"), name
        assert not listener.requests, name
        assert decoy.stat().st_atime_ns == 1 or before == decoy.stat().st_atime_ns, name


def test_the_decoy_and_the_listener_would_notice(tmp_path, listener):
    """The test above can fail: FFmpeg without the two lists follows the same playlist."""
    path = tmp_path / "list.m3u8"
    path.write_text(scripts(listener.url, tmp_path)["hls-http"])
    with pytest.raises(VideoError):
        raise VideoError(path, reason_of(path))
    assert not listener.requests
    open_plainly(path, protocol_whitelist="file,http,tcp", allowed_extensions="ALL")
    assert listener.requests == ["/decoy.ts"]


def test_names_that_look_like_protocols(tmp_path, monkeypatch):
    """A colon is a character of a file's name; nothing that FFmpeg calls a protocol is followed."""
    monkeypatch.chdir(tmp_path)
    good = write_video(tmp_path / "a.mp4", num_frames=12)
    names = ("concat:a.mp4", "file:a.mp4", "crypto:a.mp4", "subfile,,start,0,end,0,,:a.mp4")
    for name in names:
        (tmp_path / name).write_bytes(good.read_bytes())
        from thinker.video import read_clip

        assert_right_frames(read_clip(Path(name), SPEC))
    assert reason_of(Path("concat:b.mp4|a.mp4")) == "missing"


def test_an_mp4_whose_data_lie_in_another_file(tmp_path):
    """A data reference (`dref` of type alias, not self-contained) to a decoy beside it."""
    good = write_video(tmp_path / "decoy.mp4", num_frames=12)
    content = good.read_bytes()
    at = content.index(b"url \0\0\0\1")
    path = tmp_path / "v.mp4"
    path.write_bytes(content[:at] + b"alis\0\0\0\0" + content[at + 8 :])
    try:
        from thinker.video import read_clip

        assert_right_frames(read_clip(path, SPEC))  # its own data, which are there as well
    except VideoError:
        pass


def test_pipes_and_devices_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket.mp4"))
        cache = FrameCache(tmp_path / "cache")
        for path in (tmp_path / "pipe.mp4", tmp_path / "socket.mp4", Path("/dev/zero")):
            assert reason_of(path) == "unreadable"
            with pytest.raises(VideoError, match="not a regular file"):
                cache.get_or_read(path, SPEC)
    with pytest.raises(VideoError, match="unreadable"):
        require_regular(Path("a\0b"))


def test_a_picture_that_starts_another_program(tmp_path):
    """PIL hands PostScript to Ghostscript; a .jpg of that content is refused before."""
    path = tmp_path / "p.jpg"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    from PIL import Image

    with Image.open(path) as image:
        assert image.format == "EPS"
    assert reason_of(path) == "not_a_video"


def header_lie(path: Path, box: bytes, offset: int, value: int, size: int = 4) -> Path:
    """Writes a number at an offset behind a box's type."""
    content = bytearray(path.read_bytes())
    at = content.index(box, content.index(b"moov")) + 4 + offset
    content[at : at + size] = value.to_bytes(size, "big")
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("box", "offset", "value", "size", "reason"),
    [
        (b"mvhd", 16, 10**9, 4, "too_long"),  # duration; its time scale is 1000
        (b"stsz", 8, 170_000_000, 4, "too_long"),  # frames: an index of 4 GB
        (b"stts", 4, 2**32 - 1, 4, "too_long"),
        (b"avc1", 24, 0xFFFFFFFF, 4, "too_large"),  # width and height, 65535 each
    ],
)
def test_header_limits_hold_before_the_decoder_sees_the_file(
    tmp_path, monkeypatch, box, offset, value, size, reason
):
    path = header_lie(write_video(tmp_path / "v.mp4"), box, offset, value, size)
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: pytest.fail("opened by the decoder"))
    assert reason_of(path) == reason


def test_too_many_streams(tmp_path, monkeypatch):
    path = write_video(tmp_path / "v.mp4")
    content = path.read_bytes()
    moov = content.index(b"moov") - 4
    trak = content.index(b"trak") - 4
    one = content[trak : trak + int.from_bytes(content[trak : trak + 4], "big")]
    rest = content[moov + 8 :].replace(one, one * 257)
    path.write_bytes(content[:moov] + (len(rest) + 8).to_bytes(4, "big") + b"moov" + rest)
    monkeypatch.setattr(av, "open", lambda *args, **kwargs: pytest.fail("opened by the decoder"))
    assert reason_of(path) == "too_many_streams"


@pytest.mark.parametrize("name", ["v.webm", "v.ts", "v.avi"])
def test_pixels_of_other_containers(tmp_path, monkeypatch, name):
    from thinker.video import decode

    path = write_video(tmp_path / name, codec="vp9" if name == "v.webm" else "h264")
    monkeypatch.setattr(decode, "MAX_FRAME_PIXELS", 63 * 64)
    # VP9's own decoder refuses it while the stream is looked into, before there is a picture.
    assert reason_of(path) == ("decode_error" if name == "v.webm" else "too_large")


# --- the frame cache ---


def test_a_tampered_cache_file_is_read_again(tmp_path, mark):
    """Also where its checksum was made to fit: only well-formed clips are taken."""
    from thinker.video.cache import _checksum

    path = write_video(tmp_path / "v.mp4")
    cache = FrameCache(tmp_path / "cache")
    cache.get_or_read(path, SPEC)
    (file,) = files_of(cache)
    good = load_file(file)
    good.pop("checksum")
    tampered = [
        {k: v for k, v in good.items() if k != "motion"},
        {**good, "extra": torch.zeros(1)},
        {
            **good,
            "facts": torch.tensor(list(b'{"num_frames": 1, "path": "/x"}'), dtype=torch.uint8),
        },
        {**good, "facts": torch.tensor(list(b"\xff{"), dtype=torch.uint8)},
        {**good, "keyframes": good["keyframes"].float()},
        {**good, "keyframe_indices": good["keyframe_indices"].float()},
    ]
    contents = [save(tensors | {"checksum": _checksum(tensors)}) for tensors in tampered]
    contents += [pickle.dumps(Payload(mark)), save({})]
    for content in contents:
        file.write_bytes(content)
        assert_right_frames(cache.get_or_read(path, SPEC))


# --- the source ---

SOURCES = [p for folder in ("thinker", "rewards", "run_scripts", "benchmarks")
           for p in sorted((REPO / folder).rglob("*.py"))] + sorted(REPO.glob("*.py"))  # fmt: skip
FORBIDDEN_CALLS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "yaml.load", "yaml.unsafe_load",
    "yaml.full_load", "yaml.load_all", "eval", "exec", "os.system", "os.popen", "marshal.loads",
    "shelve.open", "joblib.load", "dill.load", "dill.loads", "cloudpickle.load",
    "cloudpickle.loads", "torch.hub.load", "pandas.read_pickle",
}  # fmt: skip


def violations(source: str) -> list[str]:
    found = []
    tree = ast.parse(source)
    looked_for = [n.left for n in ast.walk(tree) if isinstance(n, ast.Compare)]  # "::" in url
    for node in ast.walk(tree):
        if node in looked_for:
            continue
        if isinstance(node, ast.Constant) and node.value in ("0.0.0.0", "::"):
            found.append(f"{node.lineno}: listens on every interface")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        keywords = {k.arg: ast.unparse(k.value) for k in node.keywords if k.arg}
        if name in FORBIDDEN_CALLS:
            found.append(f"{node.lineno}: {name}")
        if name == "torch.load" and keywords.get("weights_only") != "True":
            found.append(f"{node.lineno}: torch.load without weights_only=True")
        for key, bad in (("trust_remote_code", "True"), ("shell", "True"), ("share", "True"),
                         ("allow_pickle", "True")):  # fmt: skip
            if keywords.get(key) == bad:
                found.append(f"{node.lineno}: {key}={bad}")
    return found


def test_no_dangerous_call_in_the_source():
    assert len(SOURCES) > 30
    found = [f"{p.relative_to(REPO)}:{v}" for p in SOURCES for v in violations(p.read_text())]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(f)", "torch.load(f, weights_only=False)", "pickle.loads(b)", "yaml.load(f)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)", "subprocess.run(x, shell=True)",
        "serve(host='0.0.0.0')", "app.launch(share=True)", "eval(x)",
        "np.load(f, allow_pickle=True)",
    ],
)  # fmt: skip
def test_the_scan_finds(line):
    assert violations(line)


def test_loopback_in_scripts_and_docs():
    """A server that a script or page starts names no other interface than loopback."""
    pattern = re.compile(r"--(?:host|server[-_]name|listen)[= ]+(\S+)")
    for path in [*REPO.glob("run_scripts/**/*"), *REPO.glob("docs/*.md"), REPO / "README.md"]:
        if path.is_file():
            for host in pattern.findall(path.read_text(encoding="utf-8")):
                assert host.strip("`'\"") in ("127.0.0.1", "localhost"), (path, host)


def test_policies_say_no_to_remote_code():
    text = (REPO / "thinker/policies/policy.py").read_text()
    loads = re.findall(r"Auto\w+\.from_pretrained\(([^)]*)\)", text)
    assert loads and all("trust_remote_code=False" in load for load in loads)
