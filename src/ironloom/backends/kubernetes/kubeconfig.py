"""kubeconfig files, read as kubectl reads them, with one difference: a context is used by its name or not at all.

KUBECONFIG is a list of files; one that is not there is passed over. Of two clusters, users or contexts of one name the
first file's counts, whole. Paths in a file are relative to its folder. Without KUBECONFIG it is ~/.kube/config.
Source: https://kubernetes.io/docs/concepts/configuration/organize-cluster-access-kubeconfig/
"""

from __future__ import annotations

import os
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ironloom.errors import ManifestError, UsageError
from ironloom.workload.manifests.suggest import nearest

VARIABLE = "KUBECONFIG"
DEFAULT = Path("~/.kube/config")
DEFAULT_NAMESPACE = "default"
_KINDS = {"clusters": "cluster", "users": "user", "contexts": "context"}


@dataclass(frozen=True, kw_only=True, slots=True)
class ExecPlugin:
    """A program that is asked for credentials: https://kubernetes.io/docs/reference/access-authn-authz/authentication/"""

    command: str
    """A name on PATH, or an absolute path."""
    api_version: str
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    interactive_mode: str = "IfAvailable"
    """Never, IfAvailable or Always: whether it may ask on the terminal."""
    provides_cluster_info: bool = False
    install_hint: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """Who asks. Secrets are not in its repr."""

    name: str = ""
    certificate: bytes = field(default=b"", repr=False)
    """PEM; empty for none."""
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    """Outranks `token`, and is read again when it has changed."""
    username: str = ""
    password: str = field(default="", repr=False)
    plugin: ExecPlugin | None = None
    impersonate: tuple[tuple[str, str], ...] = ()
    """Headers: Impersonate-User and its like."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """One API server and how to ask it: a context with its cluster and user."""

    context: str
    server: str
    """An URL; it may have a path."""
    namespace: str = DEFAULT_NAMESPACE
    authority: bytes = b""
    """PEM certificates to trust; empty trusts the system's."""
    skips_verification: bool = False
    tls_server_name: str = ""
    proxy_url: str = ""
    disables_compression: bool = False
    user: User = User()
    file: str = ""
    """Where the context is written."""

    @property
    def is_secure(self) -> bool:
        """Whether it is asked over TLS."""
        return self.server.startswith("https:")


@dataclass(frozen=True, kw_only=True, slots=True)
class _Entry:
    """One named cluster, user or context, and the file that it is from."""

    value: Mapping[str, Any]
    file: Path
    path: str

    def complaint(self, key: str, what: str, hint: str) -> ManifestError:
        return ManifestError(f"{self.path}.{key} {what}", hint=hint, file=str(self.file), path=f"{self.path}.{key}")

    def text(self, key: str) -> str:
        """A text; empty where there is none. Raises ManifestError for anything else."""
        value = self.value.get(key)
        if value is None:
            return ""
        if not isinstance(value, str):
            raise self.complaint(key, f"is {type(value).__name__}, must be text", "kubectl would refuse it too")
        return value

    def flag(self, key: str) -> bool:
        value = self.value.get(key)
        if value is None or isinstance(value, bool):
            return bool(value)
        raise self.complaint(key, f"= {value!r}, must be true or false", "kubectl would refuse it too")

    def file_of(self, key: str) -> Path | None:
        """A path, relative to the file's folder."""
        value = self.text(key)
        return self.file.parent / value if value else None

    def pem(self, key: str) -> bytes:
        """`KEY-data` in base64, else the file that `KEY` names; empty where neither is there."""
        data = self.text(f"{key}-data")
        if data:
            try:
                return b64decode(data, validate=True)
            except (Base64Error, ValueError):
                raise self.complaint(f"{key}-data", "is not base64", "write the file's path as " + key) from None
        path = self.file_of(key)
        if path is None:
            return b""
        try:
            return path.read_bytes()
        except OSError as error:
            why = error.strerror or str(error)
            raise self.complaint(key, f"= {path}: {why}", "fetch the cluster's credentials anew") from None


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubeconfig:
    """The merged files."""

    files: tuple[Path, ...]
    """As they were looked for, there or not."""
    clusters: Mapping[str, _Entry] = field(default_factory=dict)
    users: Mapping[str, _Entry] = field(default_factory=dict)
    contexts: Mapping[str, _Entry] = field(default_factory=dict)

    def target(self, context: str) -> Target:
        """The API server that a context means, and who asks it.

        Raises UsageError for a context, cluster or user that is not there, ManifestError for one that means nothing.
        """
        entry = self._named(self.contexts, context, "context", "")
        cluster_name, user_name = entry.text("cluster"), entry.text("user")
        cluster = self._named(self.clusters, cluster_name, "cluster", f" that context {context} names")
        user = User()
        if user_name:
            user = _user(user_name, self._named(self.users, user_name, "user", f" that context {context} names"))
        return Target(
            context=context,
            server=_server(cluster, user),
            namespace=entry.text("namespace") or DEFAULT_NAMESPACE,
            authority=b"" if cluster.flag("insecure-skip-tls-verify") else cluster.pem("certificate-authority"),
            skips_verification=cluster.flag("insecure-skip-tls-verify"),
            tls_server_name=cluster.text("tls-server-name"),
            proxy_url=cluster.text("proxy-url"),
            disables_compression=cluster.flag("disable-compression"),
            user=user,
            file=str(entry.file),
        )

    def _named(self, entries: Mapping[str, _Entry], name: str, what: str, whose: str) -> _Entry:
        found = entries.get(name)
        if found is not None:
            return found
        where = " and ".join(map(str, self.files))
        if not any(file.exists() for file in self.files):
            raise UsageError(
                f"There is no kubeconfig {where}, so no {what} {name!r}", hint=f"{VARIABLE} names another file"
            )
        near = nearest(name, entries)
        did = f"; did you mean {near}?" if near else ""
        names = ", ".join(sorted(entries)) or "none"
        raise UsageError(f"There is no {what} {name!r}{whose} in {where}{did}", hint=f"{what}s there: {names}")


SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")


def of_pod(folder: Path = SERVICE_ACCOUNT, environ: Mapping[str, str] = os.environ) -> Target:
    """The API server of the cluster that this process is a pod of, as its service account. Raises UsageError where it
    is no pod, or has no token.

    Source: https://kubernetes.io/docs/tasks/run-application/access-api-from-pod/#directly-accessing-the-rest-api
    """
    host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
    token = folder / "token"
    if not host or not token.exists():
        raise UsageError(
            "This is no pod of a cluster, or one without a service account's token",
            hint="--context names a cluster from elsewhere; in a pod automountServiceAccountToken must not be false",
        )
    namespace, authority = folder / "namespace", folder / "ca.crt"
    shown = f"[{host}]" if ":" in host else host
    return Target(
        context="(this pod's cluster)",
        server=f"https://{shown}:{port}",
        namespace=namespace.read_text().strip() if namespace.exists() else DEFAULT_NAMESPACE,
        authority=authority.read_bytes() if authority.exists() else b"",
        user=User(name="the pod's service account", token_file=token),
        file=str(folder),
    )


def files(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The files that kubectl would read, in order."""
    listed = environ.get(VARIABLE, "")
    if not listed:
        return (DEFAULT.expanduser(),)
    return tuple(dict.fromkeys(Path(part) for part in listed.split(os.pathsep) if part))


def load(paths: Sequence[Path] | None = None) -> Kubeconfig:
    """The files merged. Raises ManifestError for one that cannot be read; one that is not there is passed over."""
    chosen = tuple(paths) if paths is not None else files()
    merged: dict[str, dict[str, _Entry]] = {plural: {} for plural in _KINDS}
    for path in chosen:
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text in UTF-8"
            raise ManifestError(f"the kubeconfig cannot be read: {why}", file=str(path)) from None
        for plural, entries in _sections(text, path).items():
            for name, entry in entries.items():
                merged[plural].setdefault(name, entry)
    return Kubeconfig(files=chosen, clusters=merged["clusters"], users=merged["users"], contexts=merged["contexts"])


def _sections(text: str, path: Path) -> dict[str, dict[str, _Entry]]:
    found: dict[str, dict[str, _Entry]] = {plural: {} for plural in _KINDS}
    config = _yaml(text, path)
    for plural, singular in _KINDS.items():
        listed = config.get(plural) or []
        if not isinstance(listed, list):
            raise ManifestError(f"{plural} must be a list", file=str(path), path=plural)
        for number, item in enumerate(listed):
            where = f"{plural}[{number}]"
            name = item.get("name") if isinstance(item, dict) else None
            value = item.get(singular) if isinstance(item, dict) else None
            if not isinstance(name, str) or not isinstance(value, dict | None):
                raise ManifestError(f"{where} must have a name and a {singular}", file=str(path), path=where)
            if name in found[plural]:
                raise ManifestError(f"{where}: there are two {plural} named {name!r}", file=str(path), path=where)
            found[plural][name] = _Entry(value=value or {}, file=path, path=f"{plural}[{number}].{singular}")
    return found


def _yaml(text: str, path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        config = yaml.load(text, Loader=yaml.CSafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line, column = (mark.line + 1, mark.column + 1) if mark is not None else (0, 0)
        why = getattr(error, "problem", None) or "it cannot be parsed"
        raise ManifestError(f"the kubeconfig is no YAML: {why}", file=str(path), line=line, column=column) from None
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise ManifestError("the kubeconfig is no mapping", file=str(path), line=1, column=1)
    return config


def _server(cluster: _Entry, user: User) -> str:
    server = cluster.text("server")
    if not server:
        raise cluster.complaint("server", "is not set", "the URL of the API server belongs there")
    if "://" not in server:
        secures = cluster.flag("insecure-skip-tls-verify") or cluster.pem("certificate-authority") or user.certificate
        server = f"{'https' if secures else 'http'}://{server}"
    try:
        parts = urlsplit(server)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        is_url = False
    if not is_url:
        raise cluster.complaint("server", f"= {server!r} is no URL", "such as https://203.0.113.7:6443")
    return server.rstrip("/")


def _user(name: str, entry: _Entry) -> User:
    if entry.value.get("auth-provider") and not entry.value.get("exec"):
        raise entry.complaint(
            "auth-provider",
            "was removed from Kubernetes' clients in 1.26",
            "use the provider's exec plugin in its place, such as gke-gcloud-auth-plugin or kubelogin",
        )
    return User(
        name=name,
        certificate=entry.pem("client-certificate"),
        key=entry.pem("client-key"),
        token=entry.text("token"),
        token_file=entry.file_of("tokenFile"),
        username=entry.text("username"),
        password=entry.text("password"),
        plugin=_plugin(entry),
        impersonate=tuple(_impersonate(entry)),
    )


def _plugin(entry: _Entry) -> ExecPlugin | None:
    value = entry.value.get("exec")
    if value is None:
        return None
    if not isinstance(value, dict) or not isinstance(value.get("command"), str) or not value["command"]:
        raise entry.complaint("exec", "has no command", "name the program that gives credentials")
    inner = _Entry(value=value, file=entry.file, path=f"{entry.path}.exec")
    command = inner.text("command")
    is_relative = os.sep in command and not Path(command).is_absolute()
    args, env = value.get("args") or [], value.get("env") or []
    if not isinstance(args, list) or not all(isinstance(arg, str) for arg in args):
        raise inner.complaint("args", "must be a list of texts", "quote numbers")
    if not isinstance(env, list) or not all(isinstance(one, dict) and isinstance(one.get("name"), str) for one in env):
        raise inner.complaint("env", "must be a list of name and value", "such as {name: AWS_PROFILE, value: prod}")
    return ExecPlugin(
        command=str(entry.file.parent / command) if is_relative else command,
        api_version=inner.text("apiVersion"),
        args=tuple(args),
        env=tuple((one["name"], str(one.get("value") or "")) for one in env),
        interactive_mode=inner.text("interactiveMode") or "IfAvailable",
        provides_cluster_info=inner.flag("provideClusterInfo"),
        install_hint=inner.text("installHint").strip(),
    )


def _impersonate(entry: _Entry) -> list[tuple[str, str]]:
    headers = [
        (header, entry.text(key))
        for key, header in (("as", "Impersonate-User"), ("as-uid", "Impersonate-Uid"))
        if entry.text(key)
    ]
    groups = entry.value.get("as-groups") or []
    if isinstance(groups, list):
        headers += [("Impersonate-Group", str(group)) for group in groups]
    extra = entry.value.get("as-user-extra") or {}
    if isinstance(extra, dict):
        headers += [
            (f"Impersonate-Extra-{key}", str(value))
            for key, values in extra.items()
            for value in (values if isinstance(values, list) else [values])
        ]
    return headers
