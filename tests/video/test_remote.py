"""Files of object stores: what is fetched, what is refused, and that nothing is left."""

import functools
import http.server
import tempfile
import threading

import pytest

from thinker.video import VideoError
from thinker.video.sources import remote
from thinker.video.sources.remote import any_medium, fetched, shown_path

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def space(tmp_path, monkeypatch):
    (tmp_path / "space").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "space"))
    return tmp_path / "space"


@pytest.fixture
def server(tmp_path):
    pytest.importorskip("aiohttp")
    (tmp_path / "a b.mp4").write_bytes(b"x" * 5_000_000)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as served:
        threading.Thread(target=served.serve_forever, daemon=True).start()
        yield served
        served.shutdown()


def reason(url):
    with pytest.raises(VideoError) as caught, fetched(any_medium(url)):
        pass
    return caught.value.reason


def test_a_file_of_a_server_is_here_while_it_is_read(server, space):
    url = f"http://127.0.0.1:{server.server_port}"
    wanted = any_medium(f"{url}/a%20b.mp4?key=1")
    with fetched(wanted) as local:
        assert local.path.suffix == ".mp4" and local.path.read_bytes() == b"x" * 5_000_000
    assert not [path for path in space.rglob("*") if path.is_file()]
    assert reason(f"{url}/gone.mp4") == "missing"
    server.shutdown()
    server.server_close()
    assert reason(f"{url}/a%20b.mp4") == "unreadable"  # not "missing": nobody knows


def test_what_is_too_large_or_a_chain_is_refused_and_leaves_nothing(space, monkeypatch):
    with fsspec.open("memory://box/a.mp4", "wb") as file:
        file.write(b"12345")
    monkeypatch.setattr(remote, "MAX_FETCHED_BYTES", 4)
    assert reason("memory://box/a.mp4") == "too_large"
    assert reason("memory://box/b.mp4") == "missing"
    assert reason("zip://a.mp4::memory://box/b.zip") == "unsupported"
    assert not [path for path in space.rglob("*") if path.is_file()]


def test_the_name_that_messages_show():
    assert str(shown_path("https://host/v/a.mp4?key=1")) == "a.mp4"
    assert str(shown_path("/videos/a?.mp4")) == "/videos/a?.mp4"
    assert any_medium("s3://box/a.PNG").kind == "image"
