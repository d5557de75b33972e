"""Whatever stands between here and an API server is one sentence with a hint."""

from __future__ import annotations

import asyncio
import json
import shutil
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.backends.kubernetes.conftest import WriteKubeconfig, node
from tests.fakes.kube_api import Answer, KubeApi, Objects

from ironloom.backends.kubernetes import client, credentials
from ironloom.backends.kubernetes.certificates import validity
from ironloom.backends.kubernetes.kubeconfig import Target, load
from ironloom.backends.kubernetes.reader import read_fleet
from ironloom.errors import ClusterError, IronloomError, UsageError

OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="no openssl to make a certificate with")
ONE_NODE: Objects = {"/api/v1/nodes": [node("gpu-1")]}


def refused() -> IronloomError:
    with pytest.raises(IronloomError) as caught:
        read_fleet(context="prod")
    error = caught.value
    assert error.hint, "it says what to do next"
    assert "\n" not in error.message
    assert error.exit_status == 2
    return error


def jwt(expires_s: float) -> str:
    parts = (json.dumps({"alg": "RS256"}), json.dumps({"sub": "ada", "exp": expires_s}), "signature")
    return ".".join(urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts)


@dataclass(frozen=True)
class Certificates:
    """An authority, a server's certificate by it for `api.internal` and 127.0.0.1, and a client's."""

    folder: Path

    def data(self, name: str) -> str:
        return b64encode((self.folder / name).read_bytes()).decode()

    @contextmanager
    def api(
        self, *, wants_client: bool = True, server: str = "server", tokens: Iterable[str] = ()
    ) -> Iterator[KubeApi]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / f"{server}.pem", self.folder / f"{server}.key")
        if wants_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.folder / "ca.pem")
        with KubeApi(ONE_NODE, tls=context, tokens=tokens).running() as api:
            yield api

    @property
    def user(self) -> dict[str, str]:
        return {"client-certificate-data": self.data("client.pem"), "client-key-data": self.data("client.key")}

    @property
    def cluster(self) -> dict[str, str]:
        return {"certificate-authority-data": self.data("ca.pem")}


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*args: str) -> None:
        assert OPENSSL is not None
        subprocess.run([OPENSSL, *args], check=True, capture_output=True, stdin=subprocess.DEVNULL, cwd=folder)

    def issue(name: str, *, days: str = "2", names: str = "", by: str = "ca") -> None:
        openssl("req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")  # fmt: skip
        (folder / f"{name}.ext").write_text(f"subjectAltName={names}\n" if names else "basicConstraints=CA:FALSE\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", f"{by}.pem", "-CAkey", f"{by}.key", "-CAcreateserial",
                "-days", days, "-extfile", f"{name}.ext", "-out", f"{name}.pem")  # fmt: skip

    for authority in ("ca", "other-ca"):
        openssl("req", "-x509", "-nodes", "-days", "2", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                "-subj", f"/CN={authority}", "-addext", "keyUsage=critical,keyCertSign", "-keyout", f"{authority}.key",
                "-out", f"{authority}.pem")  # fmt: skip
    issue("server", names="IP:127.0.0.1,DNS:api.internal")
    issue("elsewhere", names="DNS:api.internal")
    issue("client")
    issue("stranger", by="other-ca")
    issue("late", days="-1", names="IP:127.0.0.1")
    return Certificates(folder)


def test_a_server_that_is_not_there(write_kubeconfig: WriteKubeconfig) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        write_kubeconfig(url)
        assert refused().message == f"The API server of context prod ({url}) refuses connections"


def test_a_name_that_does_not_resolve(write_kubeconfig: WriteKubeconfig) -> None:
    write_kubeconfig("https://nowhere.invalid:6443")
    assert "The name nowhere.invalid of context prod does not resolve" in refused().message


def test_a_server_that_does_not_answer(write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READ_TIMEOUT_S", 0.05)
    with KubeApi(ONE_NODE).running() as api:
        api.delays_s["/version"] = 0.5
        write_kubeconfig(api.url)
        assert "gave no answer within" in refused().message


def test_a_connection_that_always_breaks(write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    with KubeApi(ONE_NODE).running() as api:
        api.always["/version"] = Answer(0, hangs_up=True)
        write_kubeconfig(api.url)
        assert "cannot be reached: the connection ended before the answer did" in refused().message
        assert api.paths().count("/version") == client.NUM_TRIES


@needs_openssl
@pytest.mark.parametrize(
    ("user", "said"),
    [
        ({"token": "opaque"}, "it does not know the credentials of user ada"),
        ({"token": jwt(1_700_000_000)}, "the token of user ada expired "),
        ({"token": jwt(9_999_999_999)}, "it does not know the credentials of user ada"),
        ({"username": "ada", "password": "hunter2"}, "it does not know the credentials of user ada"),
        ({}, "context prod sends no credentials"),
    ],
)
def test_credentials_that_are_not_accepted(
    user: dict[str, str], said: str, write_kubeconfig: WriteKubeconfig, certificates: Certificates
) -> None:
    with certificates.api(wants_client=False, tokens=["good"]) as api:
        write_kubeconfig(api.url, user=user, cluster=certificates.cluster)
        error = refused()
    assert f"answered 401: {said}" in error.message
    assert isinstance(error, ClusterError)
    assert error.status == 401
    for secret in user.values():
        assert secret == "ada" or secret not in error.render()


def test_credentials_are_never_sent_over_plain_http(write_kubeconfig: WriteKubeconfig, tmp_path: Path) -> None:
    with KubeApi(ONE_NODE).running() as api:
        user = {"token": "secret", "as": "bob", **plugin(tmp_path, "raise SystemExit(1)")}
        write_kubeconfig(api.url, user=user)
        assert len(read_fleet(context="prod").nodes) == 1
        assert {one.headers.get("authorization") for one in api.asked} == {None}
        assert {one.headers.get("impersonate-user") for one in api.asked} == {"bob"}
        api.tokens = {"secret"}
        assert "it wants credentials, and none are sent over http://" in refused().message


def test_a_redirect_is_a_login_page(write_kubeconfig: WriteKubeconfig) -> None:
    with KubeApi(ONE_NODE).running() as api:
        api.always["/api"] = Answer(302, b"", {"Location": "https://login.example/"})
        write_kubeconfig(api.url)
        assert "answers with a redirect (302)" in refused().message


def test_a_server_of_something_else(write_kubeconfig: WriteKubeconfig) -> None:
    with KubeApi(ONE_NODE).running() as api:
        del api.objects["/api/v1/pods"]
        write_kubeconfig(api.url)
        assert refused().message == "The API server serves no Pods"


def test_without_the_extra_it_says_how_to_install_it(
    write_kubeconfig: WriteKubeconfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "find_spec", lambda _name: None)
    write_kubeconfig("http://127.0.0.1:1")
    error = refused()
    assert isinstance(error, UsageError)
    assert error.hint == "pip install 'ironloom[kubernetes]'"


def test_a_proxy_is_used_and_one_that_cannot_be_is_said(write_kubeconfig: WriteKubeconfig) -> None:
    with KubeApi(ONE_NODE).running() as api:
        write_kubeconfig("http://cluster.invalid", cluster={"proxy-url": api.url})
        # What the stand-in sees of a proxied request is a whole URL; its path is the same.
        assert len(read_fleet(context="prod").nodes) == 1
    write_kubeconfig("http://cluster.invalid", cluster={"proxy-url": "gopher://h"})
    assert "proxy-url gopher://h of context prod cannot be used" in refused().message


@needs_openssl
def test_a_token_file_is_read_again_when_the_server_refuses_it(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("old\n")
    with certificates.api(wants_client=False, tokens=["new"]) as api:
        write_kubeconfig(api.url, user={"tokenFile": "token"}, cluster=certificates.cluster)
        assert "answered 401" in refused().message
        (tmp_path / "token").write_text("new\n")
        assert len(read_fleet(context="prod").nodes) == 1
    (tmp_path / "token").unlink()
    assert "cannot be read from" in refused().message


PLUGIN = """\
import json, os, sys
info = json.loads(os.environ["KUBERNETES_EXEC_INFO"])
assert info["spec"]["interactive"] is False
with open(sys.argv[1], "a") as calls:
    calls.write(json.dumps(info) + os.environ.get("PROFILE", "") + "\\n")
number = len(open(sys.argv[1]).readlines())
print(json.dumps({"apiVersion": info["apiVersion"], "kind": "ExecCredential",
                  "status": {"token": f"token-{number}"}}))
"""


def plugin(tmp_path: Path, program: str, **words: Any) -> dict[str, Any]:
    path = tmp_path / "plugin.py"
    path.write_text(program)
    return {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": sys.executable,
            "args": ["-S", str(path), str(tmp_path / "calls")],
            "env": [{"name": "PROFILE", "value": "prod"}],
            "interactiveMode": "Never",
            **words,
        }
    }


@needs_openssl
def test_a_plugin_is_asked_once_and_again_when_what_it_gave_is_refused(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates, tmp_path: Path
) -> None:
    with certificates.api(wants_client=False, tokens=["token-2"]) as api:
        write_kubeconfig(api.url, user=plugin(tmp_path, PLUGIN, provideClusterInfo=True), cluster=certificates.cluster)
        assert len(read_fleet(context="prod").nodes) == 1
        calls = (tmp_path / "calls").read_text().splitlines()
        assert len(calls) == 2, "once, and once more as the first token was refused"
        assert calls[0].endswith("prod")
        assert json.loads(calls[0].removesuffix("prod"))["spec"]["cluster"] == {
            "server": api.url,
            **certificates.cluster,
        }


@needs_openssl
def test_a_watch_whose_token_is_refused_goes_on_with_a_new_one(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates, tmp_path: Path
) -> None:
    async def watched(target: Target) -> list[bytes]:
        async with client.Client(target) as asking:
            return [line async for line in asking.lines("/api/v1/nodes", params={"watch": "true"})]

    with certificates.api(wants_client=False, tokens=["token-2"]) as api:
        write_kubeconfig(api.url, user=plugin(tmp_path, PLUGIN), cluster=certificates.cluster)
        (line,) = asyncio.run(watched(load().target("prod")))
    assert json.loads(line)["kind"] == "NodeList"


@pytest.mark.parametrize(
    ("program", "words", "said"),
    [
        ("", {"command": "no-such-program-here", "installHint": "Install it\nfrom there."}, "cannot be run"),
        ("", {"apiVersion": "client.authentication.k8s.io/v1alpha1"}, "must be one of"),
        ("", {"interactiveMode": "Always"}, "wants a terminal"),
        ("import sys; sys.exit('sign in first')", {}, "failed with status 1: sign in first"),
        ("print('tok-secret')", {}, "printed no ExecCredential"),
        ("print('[' * 100000)", {}, "printed no ExecCredential"),
        ('print(\'{"kind": "ExecCredential", "status": {"token": 7}}\')', {}, "printed no ExecCredential"),
        ("import time; time.sleep(60)", {}, "gave no answer within 0.3 s"),
    ],
)
def test_a_plugin_that_gives_nothing(
    program: str,
    words: dict[str, str],
    said: str,
    write_kubeconfig: WriteKubeconfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if "sleep" in program:
        monkeypatch.setattr(credentials, "PLUGIN_TIMEOUT_S", 0.3)
    write_kubeconfig("https://127.0.0.1:1", user=plugin(tmp_path, program, **words))
    error = refused()
    assert said in error.message
    assert "tok-secret" not in error.render()
    if "installHint" in words:
        assert error.hint == "Install it from there."


@needs_openssl
def test_a_client_certificate_opens_the_door(write_kubeconfig: WriteKubeconfig, certificates: Certificates) -> None:
    with certificates.api() as api:
        write_kubeconfig(api.url, user=certificates.user, cluster=certificates.cluster)
        assert len(read_fleet(context="prod").nodes) == 1


@needs_openssl
def test_a_plugin_can_give_a_client_certificate(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates, tmp_path: Path
) -> None:
    status = {
        "clientCertificateData": (certificates.folder / "client.pem").read_text(),
        "clientKeyData": (certificates.folder / "client.key").read_text(),
        "expirationTimestamp": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3600)),
    }
    program = f"import json; print(json.dumps({{'kind': 'ExecCredential', 'status': {status!r}}}))"
    with certificates.api() as api:
        write_kubeconfig(api.url, user=plugin(tmp_path, program), cluster=certificates.cluster)
        assert len(read_fleet(context="prod").nodes) == 1


@needs_openssl
def test_a_certificate_for_another_name_wants_tls_server_name(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates
) -> None:
    with certificates.api(server="elsewhere", wants_client=False) as api:
        write_kubeconfig(api.url, cluster=certificates.cluster)
        error = refused()
        assert "shows a certificate that is not for 127.0.0.1" in error.message
        assert "tls-server-name" in (error.hint or "")
        write_kubeconfig(api.url, cluster={**certificates.cluster, "tls-server-name": "api.internal"})
        assert len(read_fleet(context="prod").nodes) == 1


@needs_openssl
def test_an_unknown_authority_is_refused_unless_verification_is_switched_off(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates
) -> None:
    with certificates.api(wants_client=False) as api:
        write_kubeconfig(api.url)
        assert "a certificate that this machine's certificates do not vouch for" in refused().message
        write_kubeconfig(api.url, cluster={"certificate-authority-data": certificates.data("other-ca.pem")})
        assert "shows a certificate that its certificate-authority does not vouch for" in refused().message
        write_kubeconfig(api.url, cluster={"insecure-skip-tls-verify": True})
        assert len(read_fleet(context="prod").nodes) == 1


@needs_openssl
def test_an_expired_certificate_of_the_server(write_kubeconfig: WriteKubeconfig, certificates: Certificates) -> None:
    with certificates.api(server="late", wants_client=False) as api:
        write_kubeconfig(api.url, cluster=certificates.cluster)
        assert "shows an expired certificate" in refused().message


@needs_openssl
@pytest.mark.parametrize("user", ["", "stranger", "late"])
def test_a_client_without_a_good_certificate_is_told_so(
    user: str, write_kubeconfig: WriteKubeconfig, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "FIRST_PAUSE_S", 0.001)
    own = {
        "client-certificate": str(certificates.folder / f"{user}.pem"),
        "client-key": str(certificates.folder / f"{user}.key"),
    }
    with certificates.api() as api:
        write_kubeconfig(api.url, user=own if user else {}, cluster=certificates.cluster)
        message = refused().message
    assert {"": "wants a client certificate", "stranger": "refuses the client certificate of user ada"}.get(
        user, "the client certificate of user ada: it expired"
    ) in message


@needs_openssl
def test_a_refused_certificate_that_has_ended_is_told_with_its_date(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates
) -> None:
    own = {"client-certificate-data": certificates.data("late.pem"), "client-key-data": certificates.data("late.key")}
    with certificates.api(wants_client=False, tokens=["good"]) as api:
        write_kubeconfig(api.url, user=own, cluster=certificates.cluster)
        assert "the client certificate of user ada expired " in refused().message


@needs_openssl
def test_plain_http_where_tls_is_spoken_and_the_other_way(
    write_kubeconfig: WriteKubeconfig, certificates: Certificates
) -> None:
    with KubeApi(ONE_NODE).running() as api:
        write_kubeconfig(api.url.replace("http:", "https:"), cluster=certificates.cluster)
        assert "does not speak TLS" in refused().message


@needs_openssl
def test_certificates_that_are_none(write_kubeconfig: WriteKubeconfig, certificates: Certificates) -> None:
    nonsense = b64encode(b"nonsense").decode()
    write_kubeconfig("https://127.0.0.1:1", cluster={"certificate-authority-data": nonsense})
    assert "certificate-authority of context prod holds no certificate" in refused().message
    write_kubeconfig("https://127.0.0.1:1", user={**certificates.user, "client-key-data": nonsense})
    assert "The client certificate and key of user ada cannot be used" in refused().message


@needs_openssl
def test_the_begin_and_the_end_of_a_certificate_are_read_from_it(certificates: Certificates) -> None:
    found = validity((certificates.folder / "client.pem").read_bytes())
    assert found is not None
    begin, end = found
    assert 1.9 * 86400 < end.timestamp() - time.time() < 2.1 * 86400
    assert (end - begin).days == 2
    whole = (certificates.folder / "client.pem").read_bytes()
    for wrong in (b"", b"x", whole[:200], whole.replace(b"MII", b"MIB"), whole[27:]):
        assert validity(wrong) is None
