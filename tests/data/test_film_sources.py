"""The sources of the film run: what is taken out of packages, without a network."""

import hashlib
import importlib.util
import io
import sys
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from tests.helpers.places import REPO
from thinker.config.build import build
from thinker.config.shipped import DATA_CONFIGS
from thinker.config.yaml_file import read_settings
from thinker.data.reference_labels.codec import decode
from thinker.data.reference_labels.planes import split_planes
from thinker.data.reference_labels.settings import ReferenceLabelSettings

FILM = DATA_CONFIGS / "film"


@pytest.fixture(scope="module")
def script():
    path = REPO / "run_scripts" / "film_sources.py"
    spec = importlib.util.spec_from_file_location("film_sources", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules["film_sources"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["film_sources"]


def digest(content):
    return hashlib.sha256(content).hexdigest()


def still(width=320, height=300):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (height // 10, width // 10, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize((width, height)).save(out, "PNG")
    return out.getvalue()


def zipped(members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return out.getvalue()


def source_package(script, folder, *, form):
    """An archive that holds a zip with a film, and a still."""
    film, picture = b"a film", still()
    inside = {"a/films.zip": zipped({"films/film.mp4": film}), "a/still.png": picture}
    if form == "wheel":
        archive = folder / "a.whl"
        archive.write_bytes(zipped(inside))
    else:
        archive = folder / "a.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            for name, content in inside.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    common = {"licence": "CC0", "credit": "nobody"}
    files = (
        script.File(member="a/films.zip", inner="films/film.mp4", sha256=digest(film),
                    target="film/a.mp4", **common),
        script.File(member="a/still.png", sha256=digest(picture), target="film/b.mp4", **common),
    )  # fmt: skip
    return archive, script.Package(package="a", version="1", client="pip", form=form, files=files)


def test_files_are_found_in_wheels(script, tmp_path):
    archive, package = source_package(script, tmp_path, form="wheel")
    assert script.members(archive, package) == [b"a film", still()]


def test_files_are_taken_once_and_stills_pan(script, tmp_path):
    archive, package = source_package(script, tmp_path, form="sdist")
    output = tmp_path / "out"
    assert not any(script.is_there(output, file) for file in package.files)
    script.take(archive, package, output)
    assert (output / "film" / "a.mp4").read_bytes() == b"a film"
    assert all(script.is_there(output, file) for file in package.files)
    luma_THW = split_planes(decode((output / "film" / "b.mp4").read_bytes()))[0].astype(float)
    assert luma_THW.shape == (104, 272, 272)
    moved = np.abs(np.diff(luma_THW, axis=0)).mean((1, 2))
    assert moved.min() > 0.5  # it never stays
    (output / "film" / "a.mp4").unlink()
    assert not script.is_there(output, package.files[0])


def test_another_file_is_refused(script, tmp_path):
    archive, package = source_package(script, tmp_path, form="sdist")
    with tarfile.open(archive, "w:gz") as tar:
        for name in ("a/films.zip", "a/still.png"):
            info = tarfile.TarInfo(name)
            content = zipped({"films/film.mp4": b"another film"})
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with pytest.raises(SystemExit, match=r"a/films\.zip of a has SHA-256 .*, expected"):
        script.take(archive, package, tmp_path / "out")
    assert not (tmp_path / "out" / "film").exists()


def test_the_list_names_licence_and_hash_of_every_file(script):
    wanted = build(script.SourceList, read_settings(FILM / "sources.yaml"), "sources.yaml")
    files = [file for package in wanted.packages for file in package.files]
    assert len({file.target for file in files}) == len(files) == 13
    assert all(len(file.sha256) == 64 and file.licence and file.credit for file in files)
    assert all(package.sha256 for package in wanted.packages if package.client == "pip")
    assert "bbb.mp4: Big Buck Bunny" in script.credits_text(wanted)


def test_both_sets_of_clips_are_made_in_the_same_ways():
    film, natural = (
        build(ReferenceLabelSettings, read_settings(FILM / f"{name}.yaml"), name)
        for name in ("film", "natural")
    )
    assert film.conditions == natural.conditions
    assert (film.clip_px, film.window_seconds) == (natural.clip_px, natural.window_seconds)
    assert natural.split.held_out == 1
    named = {scene.name for scene in film.scenes}
    assert set(film.split.held_out_scenes) < named and "" in named
