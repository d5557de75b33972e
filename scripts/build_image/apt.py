"""Debian's archives through apt, with the mirrors, proxies and keys that this machine's apt is configured with. Needs
no root: its lists are in a folder of ours.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from shutil import which

from scripts.build_image.debian import PACKAGES, RELEASE, Package, alternatives, missing_dependencies
from scripts.build_image.failure import BuildError


class PackageGone(BuildError):
    """A pinned package that no archive has any more."""


HELPER = Path("/usr/lib/apt/apt-helper")
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
CONFIG = """\
Dir::State::lists "{folder}/lists";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::sourcelist "{folder}/sources.list";
Dir::Etc::sourceparts "{folder}/none";
Dir::Etc::preferences "{folder}/none/none";
Dir::Etc::preferencesparts "{folder}/none";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Sandbox::User "root";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
#clear APT::Update::Post-Invoke-Success;
#clear APT::Update::Post-Invoke;
"""


def mirrors() -> list[str]:
    """The archives that apt is configured with, in its order, without a slash at the end. Raises BuildError."""
    if which("apt-get") is None or not HELPER.exists():
        raise BuildError(
            "There is no apt here, which fetches Debian's packages", hint="build on Debian, or in a container of it"
        )
    told = _run(["apt-get", "update", "--print-uris"]).stdout
    found = dict.fromkeys(re.findall(r"'(\S+?)/+dists/\S+/InRelease'", told))
    if not found:
        raise BuildError("apt has no archives here", hint="name Debian's with --mirror URL")
    return list(found)


def fetch(packages: Iterable[Package], cache: Path, archives: Sequence[str] = ()) -> dict[str, bytes]:
    """The files of packages by name: from the cache, else from the first archive that has them. Raises
    PackageGone for those that no archive has."""
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {one: cache / f"{one.sha256}.deb" for one in packages}
    absent = [one for one, path in wanted.items() if not _is_whole(one, path)]
    for archive in (archives or mirrors()) if absent else ():
        _download({f"{archive}/{one.path}": (wanted[one], one.sha256) for one in absent})
        absent = [one for one in absent if not _is_whole(one, wanted[one])]
    if absent:
        names = ", ".join(one.path.rpartition("/")[2] for one in absent)
        raise PackageGone(
            f"No archive of this machine's apt has {names}",
            hint="a later version has taken its place, or apt has none of Debian's archives: `make image-lock` pins "
            "what is there now, --mirror URL names another archive",
        )
    return {one.name: path.read_bytes() for one, path in wanted.items()}


def newest(folder: Path, architecture: str, archives: Sequence[str] = ()) -> list[Package]:
    """The packages of the base as the release has them now, by its signed index. Raises BuildError where apt cannot
    read it, and for a package that needs one which is not in the base."""
    if not KEYS.exists():
        raise BuildError(
            "Debian's keys are not here, without which an index counts for nothing",
            hint="apt-get install debian-archive-keyring",
        )
    env = {"APT_CONFIG": str(_configure(folder, architecture, archives or mirrors()))}
    # Archives of others that are configured here fail for want of such a release, or of Debian's signature.
    told = _tried(["apt-get", "update"], env)
    listed = _run(["apt-get", "indextargets", "--format", "$(RELEASE)", "Created-By: Packages"], env).stdout.split()
    if absent := {RELEASE, f"{RELEASE}-security"} - set(listed):
        raise BuildError(
            f"apt has no index of Debian's {' and '.join(sorted(absent))}: {_last_word(told)}",
            hint="its sources, or --mirror URL, must lead to Debian's archive and to that of security updates",
        )
    found, needs = [], {}
    shown = _run(["apt-cache", "show", "--no-all-versions", *PACKAGES], env).stdout
    for record in shown.split("\n\n"):
        if not record.strip():
            continue
        fields = dict(line.split(": ", 1) for line in record.splitlines() if re.match(r"[A-Za-z0-9-]+: ", line))
        needs[fields["Package"]] = alternatives(f"{fields.get('Pre-Depends', '')},{fields.get('Depends', '')}")
        found.append(
            Package(
                architecture=architecture,
                sha256=fields["SHA256"],
                num_bytes=int(fields["Size"]),
                path=fields["Filename"],
            )
        )
    if missing := missing_dependencies(needs):
        raise BuildError(
            f"The base lacks a package: {'; '.join(missing)}",
            hint="add it to PACKAGES of scripts/build_image/debian.py, or to LEFT_OUT with the reason",
        )
    return found


def _configure(folder: Path, architecture: str, archives: Sequence[str]) -> Path:
    for name in ("lists/partial", "cache/archives/partial", "none"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").write_text("")
    suites = [
        (archive, suite)
        for archive in archives
        for suite in ([f"{RELEASE}-security"] if "security" in archive else [RELEASE, f"{RELEASE}-updates"])
    ]
    lines = [f"deb [signed-by={KEYS}] {archive} {suite} main\n" for archive, suite in suites]
    (folder / "sources.list").write_text("".join(lines))
    config = folder / "apt.conf"
    config.write_text(CONFIG.format(folder=folder, architecture=architecture))
    return config


def _download(wanted: Mapping[str, tuple[Path, str]]) -> None:
    """What is not there is not made: the hash is apt's to compare."""
    words = [word for url, (path, sha256) in wanted.items() for word in (url, str(path), f"SHA256:{sha256}")]
    command = [str(HELPER), "-o", "APT::Sandbox::User=root", "download-file", *words]
    subprocess.run(command, capture_output=True, check=False)


def _is_whole(package: Package, path: Path) -> bool:
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == package.sha256


def _run(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    done = _tried(command, env)
    if done.returncode:
        raise BuildError(
            f"{command[0]} {command[1]} failed: {_last_word(done)}", hint="apt on this machine must reach its archives"
        )
    return done


def _tried(command: Sequence[str], env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env={**os.environ, "LC_ALL": "C", **(env or {})}, capture_output=True, text=True, check=False
    )


def _last_word(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or "it says nothing").splitlines()[-1]
