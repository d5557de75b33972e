"""What a model's name says about where the model is. Pure: looks at the text only, never at disk or network.

    hf://owner/name[:revision]               the hub; the colon as KServe reads it
    hf://owner/name/file.gguf[:revision]     one GGUF file of a repository
    file:///folder or file, /folder, ./file  this machine
    pvc://claim/path                         a volume claim, for which a folder is given
    s3://bucket/prefix                       an object store, through fsspec
    owner/name, smollm2-135m-instruct        on the command line only

Source of the hf form: KServe's storage initializer, https://kserve.github.io/website/ (Hugging Face storage).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from ironloom.catalog.models import SHORTHANDS
from ironloom.errors import UsageError

ALLOWED = "hf://owner/name[:revision], file:///path, a path, pvc://claim/path or s3://bucket/prefix"
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
_CLAIM = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?")
_BUCKET = re.compile(r"[a-z0-9](?:[a-z0-9.-]{1,61}[a-z0-9])")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class SourceKind(StrEnum):
    HUB = "hf"
    FILE = "file"
    CLAIM = "pvc"
    S3 = "s3"


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelSource:
    """A model's name, taken apart."""

    uri: str
    """The name in full; the key under which the cache knows it."""
    kind: SourceKind
    repo: str = ""
    """`owner/name` on the hub."""
    revision: str = ""
    """Branch, tag or commit; empty is the default branch."""
    file: str = ""
    """One GGUF file of the repository, where it was named."""
    claim: str = ""
    path: str = ""
    """Path on this machine, inside the claim, or bucket and prefix."""


def parse_model(text: str, *, shorthands: bool = False) -> ModelSource:
    """Take a model's name apart; `shorthands` allows the two forms of the command line. Raises UsageError."""
    name = text.strip()
    if not name or any(ord(c) < 32 for c in name):
        raise UsageError(f"{text!r} names no model; write {ALLOWED}")
    scheme = _SCHEME.match(name)
    if scheme is None:
        if shorthands:
            if (uri := SHORTHANDS.get(name.lower())) is not None:
                return _hub(uri, uri)
            short, colon, revision = name.partition(":")
            if colon and (uri := SHORTHANDS.get(short.lower())) is not None:
                raise UsageError(
                    f'"{name}" has the revision "{revision}", and the short name {short} takes none',
                    hint=f"write `{uri}:{revision or 'REVISION'}`",
                )
            if not name.startswith((".", "/", "~")) and name.count("/") == 1 and not name.endswith((".gguf", "/")):
                return _hub(f"hf://{name}", name)
        if name.startswith(("/", "./", "../", "~")) or name in (".", "..") or name.endswith(".gguf") or "/" in name:
            return ModelSource(uri=name, kind=SourceKind.FILE, path=name)
        known = ", ".join(SHORTHANDS)
        hint = f"short names on the command line: {known}; a folder here is written `./{name}`"
        raise UsageError(f'"{name}" names no model; write {ALLOWED}', hint=hint)
    rest = name[scheme.end() :]
    match scheme[1].lower():
        case "hf":
            return _hub(f"hf://{rest}", text)
        case "file":
            return _file(rest, text)
        case "pvc":
            return _claim(rest, text)
        case "s3":
            return _s3(rest, text)
        case other:
            raise UsageError(f'"{text}" has the scheme "{other}"; a model is {ALLOWED}')


def _hub(uri: str, text: str) -> ModelSource:
    rest, _, revision = uri.removeprefix("hf://").partition(":")
    parts = rest.split("/")
    file = "/".join(parts[2:])
    if len(parts) < 2 or not all(_is_repo_name(part) for part in parts[:2]):
        raise UsageError(f'"{text}" names no repository of the hub; write hf://owner/name[:revision]')
    if ":" in uri.removeprefix("hf://") and (_REVISION.fullmatch(revision) is None or ".." in revision):
        raise UsageError(f'"{text}" has the revision "{revision}"; a branch, a tag or a commit is wanted')
    if file and (not file.endswith(".gguf") or not all(_NAME.fullmatch(part) for part in parts[2:])):
        raise UsageError(f'"{text}" names "{file}" in the repository; only one GGUF file can be named so')
    return ModelSource(
        uri=f"hf://{rest}:{revision}" if revision else f"hf://{rest}",
        kind=SourceKind.HUB,
        repo="/".join(parts[:2]),
        revision=revision,
        file=file,
    )


def _is_repo_name(part: str) -> bool:
    """The hub's own rule: https://huggingface.co/docs/huggingface_hub (validate_repo_id)."""
    return _NAME.fullmatch(part) is not None and "--" not in part and ".." not in part and not part.endswith(".git")


def _file(rest: str, text: str) -> ModelSource:
    path = rest.removeprefix("localhost") if rest.startswith("localhost/") else rest
    if not path.startswith("/"):
        raise UsageError(f'"{text}" has no absolute path; write file:///folder with three slashes')
    return ModelSource(uri=f"file://{path}", kind=SourceKind.FILE, path=path)


def _claim(rest: str, text: str) -> ModelSource:
    claim, _, path = rest.partition("/")
    if _CLAIM.fullmatch(claim) is None or ".." in path.split("/"):
        raise UsageError(f'"{text}" names no volume claim; write pvc://claim/path')
    return ModelSource(uri=f"pvc://{rest}", kind=SourceKind.CLAIM, claim=claim, path=path.strip("/"))


def _s3(rest: str, text: str) -> ModelSource:
    bucket, _, prefix = rest.partition("/")
    if _BUCKET.fullmatch(bucket) is None or not prefix.strip("/") or ".." in prefix.split("/"):
        raise UsageError(f'"{text}" names no objects; write s3://bucket/prefix')
    path = f"{bucket}/{prefix.strip('/')}"
    return ModelSource(uri=f"s3://{path}", kind=SourceKind.S3, path=path)
