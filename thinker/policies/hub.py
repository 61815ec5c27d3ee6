"""Policies by their names on a model hub.

A name stands wherever the folder of a model can: `org/name`, or `org/name@revision`, where the
revision is a branch, a tag or a commit. The hub's own client keeps what it fetched, in its cache;
everything behind `local_folder` works on files. Only weights in safetensors, JSON and text are
fetched or sent: nothing that runs code when it is read.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thinker.policies.shards import read_headers
from thinker.utils.names import path_text

FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
"""What a model folder consists of."""

CARD = "README.md"

_NAME = re.compile(r"([\w-][\w.-]*(?:/[\w-][\w.-]*)?)(?:@([\w-][\w./-]*))?")


def check_folder(folder: str | Path) -> None:
    """Raises ValueError for a path that is no folder, unless it can be a name on the hub."""
    path = Path(folder)
    if path.is_dir():
        return
    if path.exists():
        raise ValueError(f"{path_text(path)} is a file, expected the folder of a saved policy")
    # Beside local folders a name of this form is a slip, and is not to be sent to the hub.
    is_beside_others = len(path.parts) > 1 and path.parent.is_dir()
    if is_beside_others or not _NAME.fullmatch(str(folder)):
        raise ValueError(
            f"no configuration of a model in {path_text(path)}: there is no such folder"
        )


def local_folder(folder: str | Path) -> Path:
    """The folder itself, or the one where the files of a name on the hub lie, fetched where they
    are not there yet.

    A name without a revision means the hub's newest; offline (HF_HUB_OFFLINE=1, or no connection)
    what was fetched last. Raises ValueError for a path that is no folder, and for a name that is
    neither on the hub nor in the cache.
    """
    check_folder(folder)
    if Path(folder).is_dir():
        return Path(folder)
    from huggingface_hub import snapshot_download

    name, revision = split_name(str(folder))
    with _errors_in_a_line(f"{folder} is no folder, and no model comes by this name"):
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(FILES)))


def pinned(folder: Path) -> Path:
    """The folder as an absolute path; a name with the commit that `local_folder` gives for it, so
    that other machines, which fetch later, get the same. Example: `org/name@1f2e…`."""
    found = local_folder(folder)
    if found == folder:
        return folder.absolute()
    name, _ = split_name(str(folder))
    return Path(f"{name}@{found.name}")  # a snapshot is called after its commit


def split_name(name: str) -> tuple[str, str | None]:
    """Name and revision. Example: "org/name@v1" is ("org/name", "v1"), "org/name" has None.

    Raises ValueError for what is no name.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name!r} is no name on the hub, expected org/name or org/name@revision")
    return match[1], match[2]


def push_folder(folder: str | Path, name: str, *, private: bool = True) -> str:
    """Send a saved policy and its card to the hub; returns the address of the commit.

    name: `org/name`, made where it is not there, or `org/name@branch`. The hub's client takes the
    token of `hf auth login` or HF_TOKEN. Raises ValueError for a folder without whole weights, and
    where the hub refuses.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"{path_text(folder)} is no folder, expected that of a saved policy")
    read_headers(folder)
    repository, revision = split_name(name)
    hub = HfApi()
    with _errors_in_a_line(f"{name} cannot be written on the hub"):
        hub.create_repo(repository, private=private, exist_ok=True)
        if revision is not None:
            hub.create_branch(repository, branch=revision, exist_ok=True)
        sent = hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            allow_patterns=[*FILES, CARD],
            commit_message="Policy of Thinker",
        )
    return sent.commit_url


@contextmanager
def _errors_in_a_line(failed: str) -> Iterator[None]:
    """What the hub's client raises as a ValueError that says what failed, and why."""
    from huggingface_hub import errors

    try:
        yield
    except (OSError, ValueError, errors.HTTPError) as error:
        known = {
            errors.GatedRepoError: "the hub gives it only to those who have been granted access",
            errors.RevisionNotFoundError: "the hub has no such revision of it",
            errors.RepositoryNotFoundError: "the hub has none of this name, or none that this "
            "token may see (hf auth login, HF_TOKEN)",
            errors.LocalEntryNotFoundError: "the hub cannot be reached (no connection, or "
            "HF_HUB_OFFLINE), and it was not fetched before",
        }
        reasons = [text for kind, text in known.items() if isinstance(error, kind)]
        said = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = [*reasons, *said, type(error).__name__][0]
        raise ValueError(f"{failed}: {reason}") from error
