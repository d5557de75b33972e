"""What the image says of itself is what the pod and the Dockerfile say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from scripts.build_image.__main__ import ROOT
from scripts.build_image.image import CONFIG, PREFIX, REQUIREMENTS, SITE_PACKAGES, START

from ironloom.backends.kubernetes import install

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


def stages() -> list[list[tuple[str, str]]]:
    """Instructions with their arguments, by stage."""
    found: list[list[tuple[str, str]]] = []
    for line in DOCKERFILE.read_text().replace("\\\n", " ").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            found.append([])
        if word.isupper():
            found[-1].append((word, rest))
    return found


def said(word: str) -> list[str]:
    return [rest for one, rest in stages()[-1] if one == word]


def test_the_dockerfile_says_the_same_of_its_image() -> None:
    (user,), (port,), (entrypoint,), (folder,) = (said(word) for word in ("USER", "EXPOSE", "ENTRYPOINT", "WORKDIR"))
    assert user == CONFIG["User"]
    assert {f"{port}/tcp"} == CONFIG["ExposedPorts"].keys()
    assert json.loads(entrypoint) == CONFIG["Entrypoint"]
    assert folder == CONFIG["WorkingDir"]
    assert [one for rest in said("ENV") for one in shlex.split(rest)] == CONFIG["Env"]
    labels = dict(one.split("=", 1) for rest in said("LABEL") for one in shlex.split(rest))
    assert labels == CONFIG["Labels"]


def test_the_dockerfile_puts_the_same_files_into_the_same_places() -> None:
    (copied,) = [rest.split() for rest in said("COPY")]
    assert copied == ["--from=build", f"/{PREFIX}", f"/{PREFIX}"]
    build = [rest for _, rest in stages()[0]]
    assert any(f"python3 -m venv /{PREFIX}" in rest for rest in build)
    sources = [name for rest in build for name in rest.split() if (ROOT / name).exists() and not name.startswith("/")]
    assert {REQUIREMENTS, "requirements/build.txt", "pyproject.toml", "src"} <= set(sources)
    (home,) = [rest for rest in said("RUN") if install.STATE in rest]
    assert f"-o {install.USER_ID} -g {install.USER_ID}" in home


def test_whatever_the_dockerfile_installs_from_an_index_is_pinned_by_hash() -> None:
    installs = [rest for stage in stages() for _, rest in stage if "pip install" in rest]
    assert installs
    for line in (part for rest in installs for part in rest.split("&&") if "pip install" in part):
        assert "--require-hashes" in line or ("--no-deps" in line and "--no-build-isolation" in line), line
        assert "--only-binary" in line or "--no-build-isolation" in line


def test_the_wheel_is_built_by_what_its_pins_say() -> None:
    pins = (ROOT / "requirements" / "build.txt").read_text()
    dev = (ROOT / "requirements" / "dev.txt").read_text()
    wanted = next(line for line in dev.splitlines() if line.startswith("hatchling=="))
    assert wanted in pins.splitlines()


def test_the_image_is_the_user_the_port_and_the_home_that_the_pod_has() -> None:
    pod = next(one for one in install.objects(install.Setting(namespace="models")) if one["kind"] == "Deployment")
    spec = pod["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    security = spec["securityContext"]
    assert CONFIG["User"] == f"{security['runAsUser']}:{security['runAsGroup']}"
    assert {f"{one['containerPort']}/tcp" for one in container["ports"]} == CONFIG["ExposedPorts"].keys()
    assert f"HOME={install.STATE}" in CONFIG["Env"]
    assert {"name": "HOME", "value": install.STATE} in container["env"]


def test_the_entrypoint_is_the_command_of_the_package() -> None:
    assert f"/{PREFIX}/bin/ironloom" in CONFIG["Entrypoint"]
    assert "ironloom.cli.main:main" in (ROOT / "pyproject.toml").read_text()
    assert "from ironloom.cli.main import main" in START
    assert Path(f"/{SITE_PACKAGES}").is_relative_to(f"/{PREFIX}")
