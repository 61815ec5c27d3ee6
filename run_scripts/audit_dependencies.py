"""Known vulnerabilities of the installed packages, from a copy of the PyPA advisory database.

    git clone https://github.com/pypa/advisory-database
    python run_scripts/audit_dependencies.py advisory-database/vulns

The same data as `pip-audit`, which asks a service for it, for machines without a network. Prints
one line an advisory that lists the installed version, and exits with 1 where there is one.
"""

import re
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version


def is_affected(version: Version, affected: dict[str, Any]) -> bool:
    """By the list of versions, else by the ranges introduced..fixed (or ..last_affected)."""
    if affected.get("versions"):
        listed = set()
        for text in affected["versions"]:
            try:
                listed.add(Version(text).public)
            except InvalidVersion:
                continue
        return version.public in listed
    for events in (r["events"] for r in affected.get("ranges", []) if r["type"] == "ECOSYSTEM"):
        starts = [Version(e["introduced"]) for e in events if "introduced" in e]
        ends = [Version(e["fixed"]) for e in events if "fixed" in e]
        last = [Version(e["last_affected"]) for e in events if "last_affected" in e]
        begun = any(version >= start for start in starts)
        over = any(version >= end for end in ends) or any(version > end for end in last)
        if begun and not over:
            return True
    return False


def advisories(folder: Path, name: str, version: Version) -> list[str]:
    found = []
    for path in sorted((folder / name).glob("*.y*ml")):
        advisory = yaml.safe_load(path.read_text(encoding="utf-8"))
        if "withdrawn" in advisory:
            continue
        mine = [a for a in advisory["affected"] if a["package"]["name"].lower() == name]
        if any(is_affected(version, affected) for affected in mine):
            aliases = ", ".join(advisory.get("aliases", []))
            summary = " ".join(advisory["details"].split())
            found.append(f"{name} {version}: {advisory['id']} ({aliases}): {summary:.160}")
    return found


def main(folder: Path) -> int:
    installed = {
        re.sub(r"[-_.]+", "-", d.metadata["Name"]).lower(): Version(d.version)
        for d in distributions()
    }
    found = [line for item in sorted(installed.items()) for line in advisories(folder, *item)]
    print("\n".join([*found, f"{len(found)} advisories for {len(installed)} packages"]))
    return 1 if found else 0


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1]).is_dir():
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
