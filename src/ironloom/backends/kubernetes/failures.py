"""What went wrong between here and an API server, in one sentence with a hint."""

from __future__ import annotations

import json
import re
import socket
import ssl
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from ironloom.backends.kubernetes.certificates import validity
from ironloom.backends.kubernetes.credentials import Proof
from ironloom.backends.kubernetes.kubeconfig import Target
from ironloom.backends.kubernetes.rights import hint_of
from ironloom.errors import ClusterError
from ironloom.units import format_duration

MAX_QUOTED_CHARS = 300
MAX_SKEW_S = 60.0
"""Clocks that differ by more are told where credentials are refused: a refusal for time then has that reason."""
_WANTS = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
_QUOTA = re.compile(r"exceeded quota: ([^,\s]+)")
_TERMINATING = re.compile(r"in namespace (\S+) because it is being terminated")
_WEBHOOK_SILENT = re.compile(r'failed calling webhook "([^"]+)"')
_WEBHOOK = re.compile(r'admission webhook "([^"]+)" denied')
_CONFLICT = re.compile(r'Apply failed with \d+ conflict.*? with "([^"]+)"')
_FIELD = re.compile(r"(?:: |- )(\.\S+)")
"""Of a conflict: https://kubernetes.io/docs/reference/using-api/server-side-apply/#conflicts"""
_NO_NAMESPACE = re.compile(r'^namespaces "([^"]+)" not found')
_NOT_SERVED = "could not find the requested resource"
_POLICY = re.compile(r"ValidatingAdmissionPolicy '([^']+)'")
_HOSTNAME_MISMATCH, _IP_MISMATCH, _EXPIRED, _NOT_YET_VALID = 62, 64, 10, 9
"""X509_V_ERR_… of OpenSSL: https://docs.openssl.org/master/man3/X509_STORE_CTX_get_error/"""


def server_said(target: Target) -> str:
    return f"The API server of context {target.context} ({target.server})"


def of_network(error: BaseException, target: Target, timeout_s: float) -> ClusterError:
    """A request that got no answer."""
    who = server_said(target)
    found = list(causes(error))
    for cause in found:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause, target)
    tls = tls_error(error)
    if tls is not None:
        return _of_tls(tls, target)
    for cause in found:
        if isinstance(cause, socket.gaierror):
            host = urlsplit(target.proxy_url or target.server).hostname
            return ClusterError(
                f"The name {host} of context {target.context} does not resolve: {cause.strerror}",
                hint="is the VPN up, and the server's address in " + target.file + " right?",
            )
    for cause in found:
        if isinstance(cause, ConnectionRefusedError):
            return ClusterError(
                f"{who} refuses connections", hint=f"is the cluster up, and its address in {target.file} right?"
            )
    names = {type(cause).__name__ for cause in found}
    if any(isinstance(cause, TimeoutError) for cause in found) or any("Timeout" in name for name in names):
        return ClusterError(
            f"{who} gave no answer within {format_duration(timeout_s)}", hint="is the VPN up, and a firewall open?"
        )
    if "ProxyError" in names:
        return ClusterError(
            f"The proxy on the way to context {target.context} refuses: {_text(error)}",
            hint="see proxy-url of the cluster, or HTTPS_PROXY and NO_PROXY",
        )
    system = [one for one in found if isinstance(one, OSError) and one.strerror and not isinstance(one, _WANTS)]
    last = system[-1] if system else None
    why = last.strerror if last is not None else _text(error)
    return ClusterError(f"{who} cannot be reached: {why}", hint=f"its address is in {target.file}")


def of_status(status: int, body: bytes, target: Target, proof: Proof, what: str, *, date: str = "") -> ClusterError:
    """An answer that is no success. `what` is what was asked for, such as `list pods`; `date` is the answer's own."""
    reason, message = _status_of(body)
    who = server_said(target)
    if status == 401:
        return _unauthorized(target, proof, date)
    if (refused := _of_admission(target, what, message)) is not None:
        return ClusterError(refused[0], hint=refused[1], status=status, reason=reason)
    if status == 403:
        user = target.user.name or "anonymous"
        return ClusterError(
            f"The cluster of context {target.context} forbids user {user} to {what}: {message or 'no reason given'}",
            hint=hint_of(message),
            status=403,
            reason=reason or "Forbidden",
        )
    if status in {301, 302, 303, 307, 308}:
        return ClusterError(
            f"{who} answers with a redirect ({status}), as a login page does",
            hint=f"the server's address in {target.file} must be the API server's own",
            status=status,
        )
    said = f": {message}" if message else ""
    hint = "try again in a while" if status in {429, 500, 502, 503, 504} else None
    if status in {400, 422} and message:
        hint = "change what it names in the manifest"
    elif status == 404 and _NOT_SERVED in message:
        hint = f"`ironloom fleet --context {target.context} --parts` says what the cluster has"
    return ClusterError(f"{who} answered {status} to {what}{said}", hint=hint, status=status, reason=reason)


def _of_admission(target: Target, what: str, message: str) -> tuple[str, str] | None:
    """(sentence, hint) of a request that was allowed and then refused by what the cluster checks of every object.

    The API server's words: https://github.com/kubernetes/kubernetes/tree/master/staging/src/k8s.io/apiserver/pkg/admission
    and https://github.com/kubernetes/kubernetes/blob/master/plugin/pkg/admission/resourcequota/controller.go"""
    where = f"The cluster of context {target.context}"
    if found := _QUOTA.search(message):
        return (
            f"{where} refused to {what}: quota {found[1]} is used up ({message})",
            f"kubectl describe resourcequota {found[1]}; ask for more, or let go of what holds it",
        )
    if found := _CONFLICT.search(message):
        fields = ", ".join(dict.fromkeys(_FIELD.findall(message)))
        return (
            f"{where} refused to {what}: {fields or 'a field of it'} belongs to field manager {found[1]} ({message})",
            f"{found[1]} must give it up (`kubectl get --show-managed-fields` shows it), or leave it out here",
        )
    if found := _NO_NAMESPACE.search(message):
        return (
            f"{where} refused to {what}: there is no namespace {found[1]}",
            f"`kubectl create namespace {found[1]}` makes one; --namespace names another",
        )
    if found := _TERMINATING.search(message):
        return (
            f"{where} refused to {what}: namespace {found[1]} is being deleted",
            "use another namespace, or wait until it is gone and make it anew",
        )
    if found := _WEBHOOK_SILENT.search(message):
        return (
            f"{where} could not {what}: admission webhook {found[1]} does not answer ({message})",
            "the program behind the webhook must run; ask who looks after it",
        )
    if found := _WEBHOOK.search(message) or _POLICY.search(message):
        return (
            f"{where} refused to {what}: {message}",
            f"{found[1]} is a rule of this cluster: change the manifest as it says, or ask who wrote it",
        )
    return None


def object_at(path: str, name: str = "") -> str:
    """What stands at a path of the API, for a person: `deployment chat in namespace models`, `deployments/scale chat in
    namespace models`. `name` is that of an object whose path is its list's."""
    kind, *rest = path.strip("/").split("/")
    steps = rest[1:] if kind == "api" else rest[2:] if kind == "apis" else []
    where = ""
    if steps[:1] == ["namespaces"] and len(steps) > 2:
        where, steps = f" in namespace {steps[1]}", steps[2:]
    if not 1 <= len(steps) <= 3:
        return path
    plural, named, subresource = (*steps, "", "")[:3]
    if subresource:
        return f"{plural}/{subresource} {named}{where}"
    named = named or name
    return f"{_singular(plural)} {named}{where}" if named else f"{plural}{where}"


def _singular(plural: str) -> str:
    """Of a resource's name: that is its kind's plural, of the kind's English ending."""
    if plural.endswith("ies"):
        return f"{plural.removesuffix('ies')}y"
    return plural.removesuffix("es") if plural.endswith(("sses", "xes", "ches")) else plural.removesuffix("s")


def no_json(target: Target, what: str) -> ClusterError:
    return ClusterError(
        f"{server_said(target)} answered to {what} with something that is not the API's JSON",
        hint="is it an API server, or a proxy or a login page before it?",
    )


def _unauthorized(target: Target, proof: Proof, date: str) -> ClusterError:
    user = target.user.name or "(none)"
    here = clock()
    now = _read_date(date) or here  # it judged by its own clock
    token_end, valid = _token_end(proof.token), validity(proof.certificate) if proof.certificate else None
    if token_end is not None and token_end < now:
        what, hint = f"the token of user {user} {_ended(token_end, now)}", "sign in again, or fetch a new token"
    elif valid is not None and valid[1] < now:
        what = f"the client certificate of user {user} {_ended(valid[1], now)}"
        hint = "fetch the cluster's kubeconfig anew"
    elif valid is not None and valid[0] > now:
        what = f"the client certificate of user {user} is not valid before {valid[0]:%Y-%m-%d %H:%M} UTC"
        hint = "was the clock right of the machine that made it?"
    elif not target.is_secure:
        what = "it wants credentials, and none are sent over http://"
        hint = f"its address in {target.file} must begin with https://"
    elif proof.token or proof.certificate or proof.headers:
        what, hint = f"it does not know the credentials of user {user}", "sign in again, or fetch a new token"
    else:
        what = f"context {target.context} sends no credentials"
        hint = f"set a token, a certificate or a plugin for its user in {target.file}"
    ahead_s = (here - now).total_seconds()
    if abs(ahead_s) > MAX_SKEW_S:
        how = "ahead of" if ahead_s > 0 else "behind"
        what += f"; this machine's clock is {format_duration(abs(ahead_s))} {how} that of the API server"
        hint += "; set the clock that is wrong"
    return ClusterError(f"{server_said(target)} answered 401: {what}", hint=hint, status=401, reason="Unauthorized")


def clock() -> datetime:
    """This machine's."""
    return datetime.now(UTC)


def _read_date(header: str) -> datetime | None:
    """Of a Date header, as far as it is one."""
    try:
        found = parsedate_to_datetime(header)
    except (ValueError, TypeError):
        return None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)


def _ended(end: datetime, now: datetime) -> str:
    return f"expired {format_duration((now - end).total_seconds())} ago, on {end:%Y-%m-%d %H:%M} UTC"


def _token_end(token: str) -> datetime | None:
    """When a JWT expires; None for another token. Its signature is not looked at: the server judged it."""
    parts = token.split(".")
    if len(parts) != 3:
        return None
    try:
        claims = json.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        return datetime.fromtimestamp(float(claims["exp"]), UTC)
    except (ValueError, TypeError, KeyError, OverflowError, OSError):
        return None


def _of_certificate(error: ssl.SSLCertVerificationError, target: Target) -> ClusterError:
    who = server_said(target)
    if error.verify_code in {_HOSTNAME_MISMATCH, _IP_MISMATCH}:
        name = target.tls_server_name or urlsplit(target.server).hostname
        return ClusterError(
            f"{who} shows a certificate that is not for {name}",
            hint=f"use a name that it is for, or set tls-server-name of the cluster in {target.file}",
        )
    if error.verify_code == _EXPIRED:
        return ClusterError(f"{who} shows an expired certificate", hint="its operator must renew it")
    if error.verify_code == _NOT_YET_VALID:
        return ClusterError(f"{who} shows a certificate that is not valid yet", hint="is this machine's clock right?")
    by = "its certificate-authority does" if target.authority else "this machine's certificates do"
    return ClusterError(
        f"{who} shows a certificate that {by} not vouch for ({error.verify_message})",
        hint=f"set the cluster's own certificate-authority in {target.file}; has the cluster been made anew?",
    )


def _of_tls(error: ssl.SSLError, target: Target) -> ClusterError:
    who = server_said(target)
    reason = error.reason or str(error)
    if "WRONG_VERSION_NUMBER" in reason or "HTTP_REQUEST" in reason or "RECORD_LAYER" in reason:
        return ClusterError(f"{who} does not speak TLS", hint=f"is its address in {target.file} to begin with http://?")
    if "CERTIFICATE_EXPIRED" in reason:
        return ClusterError(
            f"{who} refuses the client certificate of user {target.user.name}: it expired",
            hint="fetch the cluster's kubeconfig anew",
        )
    if "CERTIFICATE_REQUIRED" in reason or "HANDSHAKE_FAILURE" in reason:
        return ClusterError(
            f"{who} wants a client certificate",
            hint=f"set client-certificate and client-key of user {target.user.name or 'of the context'}",
        )
    if "BAD_CERTIFICATE" in reason or "UNKNOWN_CA" in reason or "CERTIFICATE_UNKNOWN" in reason:
        return ClusterError(
            f"{who} refuses the client certificate of user {target.user.name} ({reason.lower()})",
            hint="fetch the cluster's kubeconfig anew",
        )
    return ClusterError(f"{who} and this machine cannot agree on TLS ({reason})", hint="see `openssl s_client`")


def _status_of(body: bytes) -> tuple[str, str]:
    """(reason, message) of a Status; an answer that is none has neither."""
    try:
        status = json.loads(body)
    except (ValueError, RecursionError):
        return "", ""
    if not isinstance(status, dict):
        return "", ""
    reason, message = status.get("reason"), status.get("message")
    quoted = " ".join(message.split())[:MAX_QUOTED_CHARS] if isinstance(message, str) else ""
    return (reason if isinstance(reason, str) else "", quoted)


def tls_error(error: BaseException) -> ssl.SSLError | None:
    """What TLS itself complained of; to want more bytes is no complaint."""
    found = (cause for cause in causes(error) if isinstance(cause, ssl.SSLError) and not isinstance(cause, _WANTS))
    return next(found, None)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and everything it came of."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        one = waiting.pop(0)
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions
        waiting += [one.__cause__, one.__context__]


def _text(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:MAX_QUOTED_CHARS]
