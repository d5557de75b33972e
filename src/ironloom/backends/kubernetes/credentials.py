"""How a user of a kubeconfig proves who it is: certificate, token, file of a token, password, or a program's answer.

As kubectl does it, nothing of this goes over plain HTTP: everybody on the way could read it.
A plugin is a program that prints an ExecCredential. It is run once, when the first request goes out, and again when
what it gave has expired or the API server refuses it.
Source: https://kubernetes.io/docs/reference/access-authn-authz/authentication/#client-go-credential-plugins
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ironloom.backends.kubernetes.kubeconfig import ExecPlugin, Target
from ironloom.errors import ClusterError

API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
PLUGIN_TIMEOUT_S = 120.0
"""Of one that may ask on the terminal too: a person signs in meanwhile."""
TOKEN_FILE_LIFE_S = 60.0
"""A service account's token is replaced by the kubelet; client-go reads the file again as often."""
MAX_QUOTED_CHARS = 300


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What goes with each request."""

    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    certificate: bytes = field(default=b"", repr=False)
    """PEM; empty for none."""
    key: bytes = field(default=b"", repr=False)
    token: str = field(default="", repr=False)
    until_s: float | None = None
    """Seconds since the epoch; None for as long as it is accepted."""


class Credentials:
    """The proof of one target's user, kept while it is good."""

    def __init__(self, target: Target, now: Callable[[], float] = time.time) -> None:
        self.target = target
        self._now = now
        self._proof: Proof | None = None
        self._making: asyncio.Task[Proof] | None = None

    @property
    def can_renew(self) -> bool:
        """Whether asking again may give another proof."""
        user = self.target.user
        renews = user.token_file is not None or (user.plugin is not None and not user.token)
        return renews and self.target.is_secure

    async def proof(self, refused: Proof | None = None) -> Proof:
        """What is good now. `refused` is what the API server did not accept: it is not given again from memory.

        Raises ClusterError when a plugin or a file gives nothing.
        """
        proof = self._proof
        is_good = proof is not None and (proof.until_s is None or proof.until_s > self._now())
        if proof is not None and is_good and proof is not refused:
            return proof
        if self._making is None:
            # One at a time, and its outcome is everybody's: a person is asked to sign in once.
            self._making = asyncio.create_task(self._made())
            self._making.add_done_callback(self._keep)
        return await asyncio.shield(self._making)

    def _keep(self, making: asyncio.Task[Proof]) -> None:
        self._making = None
        if not making.cancelled() and making.exception() is None:
            self._proof = making.result()

    async def _made(self) -> Proof:
        user = self.target.user
        if not self.target.is_secure:
            return Proof(headers=user.impersonate)
        certificate, key, until_s = user.certificate, user.key, None
        token = user.token
        if user.token_file is not None:
            token, until_s = self._token_of_file() or token, self._now() + TOKEN_FILE_LIFE_S
        elif user.plugin is not None and not token:
            status = await _ask(user.plugin, self.target)
            token, until_s = status.token, status.until_s
            certificate, key = status.certificate or certificate, status.key or key
        headers = list(user.impersonate)
        if token:
            headers.append(("Authorization", f"Bearer {token}"))
        elif user.username:
            pair = b64encode(f"{user.username}:{user.password}".encode()).decode()
            headers.append(("Authorization", f"Basic {pair}"))
        return Proof(headers=tuple(headers), certificate=certificate, key=key, token=token, until_s=until_s)

    def _token_of_file(self) -> str:
        path = self.target.user.token_file
        assert path is not None
        try:
            return path.read_text("utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            if self.target.user.token:
                return ""
            why = getattr(error, "strerror", None) or "it is not text"
            raise ClusterError(
                f"The token of user {self.target.user.name} cannot be read from {path}: {why}",
                hint=f"the user is in {self.target.file}",
            ) from None


async def _ask(plugin: ExecPlugin, target: Target) -> Proof:
    """What a plugin answers. Raises ClusterError."""
    if plugin.api_version not in API_VERSIONS:
        raise ClusterError(
            f"The credential plugin {plugin.command} of user {target.user.name} is asked in "
            f"{plugin.api_version or 'no version'}, must be one of {', '.join(API_VERSIONS)}",
            hint=f"fetch the cluster's kubeconfig anew, or edit {target.file}",
        )
    is_interactive = plugin.interactive_mode != "Never" and sys.stdin is not None and sys.stdin.isatty()
    if plugin.interactive_mode == "Always" and not is_interactive:
        raise ClusterError(
            f"The credential plugin {plugin.command} of user {target.user.name} wants a terminal, and there is none",
            hint="sign in with it on a terminal first",
        )
    info = {"KUBERNETES_EXEC_INFO": json.dumps(_request(plugin, target, is_interactive))}
    try:
        process = await asyncio.create_subprocess_exec(
            plugin.command,
            *plugin.args,
            env={**os.environ, **dict(plugin.env), **info},
            stdin=None if is_interactive else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=None if is_interactive else asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise ClusterError(
            f"The credential plugin {plugin.command} of user {target.user.name} cannot be run: {error.strerror}",
            hint=" ".join(plugin.install_hint.split()) or "install it, or correct its path in " + target.file,
        ) from None
    try:
        async with asyncio.timeout(PLUGIN_TIMEOUT_S):
            out, said = await process.communicate()
    except TimeoutError:
        raise ClusterError(
            f"The credential plugin {plugin.command} gave no answer within {PLUGIN_TIMEOUT_S:g} s",
            hint="run it by hand to see what it waits for",
        ) from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        lines = (said or b"").decode("utf-8", "replace").strip().splitlines()
        last = f": {lines[-1][:MAX_QUOTED_CHARS]}" if lines else ""
        raise ClusterError(
            f"The credential plugin {plugin.command} of user {target.user.name} failed with status "
            f"{process.returncode}{last}",
            hint="sign in with it, then try again",
        )
    return _status(out, plugin, target)


def _request(plugin: ExecPlugin, target: Target, is_interactive: bool) -> Mapping[str, Any]:
    spec: dict[str, Any] = {"interactive": is_interactive}
    if plugin.provides_cluster_info:
        cluster: dict[str, Any] = {"server": target.server}
        if target.authority:
            cluster["certificate-authority-data"] = b64encode(target.authority).decode()
        if target.skips_verification:
            cluster["insecure-skip-tls-verify"] = True
        if target.tls_server_name:
            cluster["tls-server-name"] = target.tls_server_name
        if target.proxy_url:
            cluster["proxy-url"] = target.proxy_url
        spec["cluster"] = cluster
    return {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}


def _status(out: bytes, plugin: ExecPlugin, target: Target) -> Proof:
    try:
        answer = json.loads(out)
        status = answer["status"]
        token = status.get("token") or ""
        certificate, key = status.get("clientCertificateData") or "", status.get("clientKeyData") or ""
        until = status.get("expirationTimestamp")
        until_s = datetime.fromisoformat(until.replace("Z", "+00:00")).timestamp() if until else None
        is_whole = answer.get("kind") == "ExecCredential" and bool(token or (certificate and key))
        texts = (token.encode(), certificate.encode(), key.encode())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        is_whole, texts, until_s = False, (b"", b"", b""), None
    if not is_whole:
        # What it printed is not quoted: it may be a secret.
        raise ClusterError(
            f"The credential plugin {plugin.command} of user {target.user.name} printed no ExecCredential with a token "
            "or a certificate and its key",
            hint="run it by hand to see what it prints",
        )
    return Proof(token=texts[0].decode(), certificate=texts[1], key=texts[2], until_s=until_s)
