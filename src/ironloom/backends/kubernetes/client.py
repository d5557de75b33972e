"""The API server over HTTP: one connection pool, credentials that renew themselves, answers as bytes.

Answers stay bytes on purpose: who reads them decodes just the fields that it needs. httpx2 is imported when a client is
opened; without the extra `kubernetes` that is an error with its hint.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import msgspec

from ironloom import __version__
from ironloom.backends.kubernetes import failures
from ironloom.backends.kubernetes.credentials import Credentials, Proof
from ironloom.backends.kubernetes.direct import Answer, Broken, Direct, NotConnected, may_ask
from ironloom.backends.kubernetes.kubeconfig import Target
from ironloom.backends.kubernetes.traffic import Traffic
from ironloom.errors import ClusterError, UsageError
from ironloom.workload import look

if TYPE_CHECKING:
    import httpx2

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 60.0
"""Between two pieces of an answer; the API server itself ends a request after as long."""
PAGE_SIZE = 500
"""Objects a page, as kubectl asks for."""
MAX_CONNECTIONS = 16
NUM_TRIES = 4
"""Of a request that only reads."""
FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 30.0
JSON = "application/json"
NAMES_ONLY = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json"
"""The API server then sends no spec, no data and no status: secrets do not travel.

Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#alternate-representations-of-resources
"""
NAME_ONLY = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"
"""Of one object."""
APPLY = "application/apply-patch+yaml"
"""JSON is YAML."""
MERGE = "application/merge-patch+json"
_DONE = frozenset({200, 201, 202})
_BUSY = frozenset({429, 500, 502, 503, 504})
_REFUSED_FOR_NOW = frozenset({429})
"""The server says that it has not begun."""
_GONE = 410
NOT_JSON = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""What decoding raises for bytes that are not what was asked for."""
_VERBS = {"POST": "create", "PUT": "update"}
"""What a method does to an object, in the words of Kubernetes' rights, where they differ."""


class _ListMeta(msgspec.Struct, frozen=True):
    resourceVersion: str | None = None  # noqa: N815 (the API's name)
    remainingItemCount: int | None = None  # noqa: N815
    next: str | None = msgspec.field(name="continue", default=None)


class _List(msgspec.Struct, frozen=True):
    items: list[msgspec.Raw] | None
    """null where Go had none."""
    apiVersion: str = ""  # noqa: N815
    kind: str = ""
    metadata: _ListMeta = _ListMeta()


_lists = msgspec.json.Decoder(_List)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One request."""

    method: str
    path: str
    params: Mapping[str, str] | None
    accept: str
    content: bytes = b""
    content_type: str = JSON
    is_once: bool = False
    """Said twice it may do something else than said once."""

    @property
    def is_list(self) -> bool:
        """Whether the answer may be large."""
        return self.method == "GET" and "limit" in (self.params or {})


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """Some objects of a list, each as its JSON."""

    items: tuple[bytes, ...]
    kind: str
    """Of the list: `PodList`."""
    is_first: bool
    """True for the first page, and again when the list had to be begun anew: what came before it is void."""
    num_remaining: int | None
    """After this page; None where the server does not say."""
    resource_version: str
    """Of the list as a whole: where a watch would begin."""


class Client:
    """Asks one API server. An async context manager; safe for tasks of one event loop.

    Every method raises ClusterError when the server cannot be reached, refuses, or answers nonsense.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        self.traffic = Traffic()
        """What was asked of it so far."""
        self._credentials = Credentials(target)
        self._http: httpx2.AsyncClient | None = None
        self._direct: Direct | None = None
        """Asks what is small, where nothing stands between."""
        self._shown: tuple[bytes, bytes] = (b"", b"")
        """The certificate and key that the pool's connections show."""
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Give the connections up."""
        if self._direct is not None:
            await self._direct.close()
            self._direct = None
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def get(
        self, path: str, *, params: Mapping[str, str] | None = None, accept: str = JSON, what: str = ""
    ) -> bytes:
        """The body of a successful answer. Tries again when the server is busy or a connection breaks.

        `what` names the request in an error: `list pods`.
        """
        ask = _Ask("GET", path, params, accept)
        return await self._asked(ask, what or f"get {failures.object_at(path)}", num_tries=NUM_TRIES)

    async def apply(
        self, path: str, body: Mapping[str, Any], *, manager: str, forces: bool = False, is_trial: bool = False
    ) -> bytes:
        """Server-side apply of one object at its own path; the object as it is then. The same again does no harm, so
        it is tried again as a read is.

        `forces` takes fields from other managers; without it a field that another one holds is a ClusterError of
        status 409. `is_trial` changes nothing and answers what would be (dryRun=All).
        Source: https://kubernetes.io/docs/reference/using-api/server-side-apply/
        """
        params = {"fieldManager": manager, "force": str(forces).lower(), "fieldValidation": "Strict"}
        if is_trial:
            params["dryRun"] = "All"
        content = msgspec.json.encode(body)
        ask = _Ask("PATCH", path, params, JSON, content=content, content_type=APPLY)
        return await self._asked(ask, f"apply {failures.object_at(path)}", num_tries=NUM_TRIES)

    async def change(
        self, method: str, path: str, body: Any = None, *, content_type: str = JSON, what: str = ""
    ) -> bytes:
        """A write that may not be said twice: a connection that breaks is an error, and what became of it is not
        known. A server that says it is busy has done nothing, and is asked again."""
        content = msgspec.json.encode(body) if body is not None else b""
        ask = _Ask(method, path, None, JSON, content=content, content_type=content_type, is_once=True)
        name = look.text(body, "metadata", "name") if method == "POST" else ""
        what = what or f"{_VERBS.get(method, method.lower())} {failures.object_at(path, name)}"
        return await self._asked(ask, what, num_tries=NUM_TRIES)

    async def lines(
        self,
        path: str,
        *,
        params: Mapping[str, str],
        what: str = "",
        silence_s: float | None = None,
        opened: Callable[[], None] = lambda: None,
    ) -> AsyncGenerator[bytes, None]:
        """The lines of an answer that goes on: a watch, a log that is followed. Ends when the server ends it, the
        connection breaks, or nothing has come for `silence_s`; None waits through any silence. An answer that has not
        begun after that long is a ClusterError. `opened` is called once it has begun."""
        what = what or f"follow {failures.object_at(path)}"
        response, proof = await self._begun(path, params, silence_s)
        import httpx2

        try:
            if response.status_code != 200:
                body = await response.aread()
                date = response.headers.get("Date", "")
                raise failures.of_status(response.status_code, body, self.target, proof, what, date=date)
            opened()
            rest = b""
            async for piece in response.aiter_bytes():
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    if line:
                        yield line
            if rest:
                yield rest
        except (httpx2.HTTPError, OSError):
            return
        finally:
            await response.aclose()

    async def _begun(
        self, path: str, params: Mapping[str, str], silence_s: float | None
    ) -> tuple[httpx2.Response, Proof]:
        """The head of an answer that goes on; one of 401 is asked for again with credentials made anew, once."""
        proof = await self._credentials.proof()
        response = await self._stream(path, params, proof, silence_s)
        if response.status_code == 401 and self._credentials.can_renew:
            await response.aclose()
            proof = await self._credentials.proof(refused=proof)
            response = await self._stream(path, params, proof, silence_s)
        return response, proof

    async def _stream(
        self, path: str, params: Mapping[str, str], proof: Proof, silence_s: float | None
    ) -> httpx2.Response:
        http = await self._opened(proof)
        import httpx2

        name = self.target.tls_server_name
        request = http.build_request(
            "GET",
            f"{self.target.server}{path}",
            params=params,
            headers=[*proof.headers, ("Accept", JSON)],
            extensions={
                "timeout": httpx2.Timeout(silence_s, connect=CONNECT_TIMEOUT_S).as_dict(),
                **({"sni_hostname": name} if name else {}),
            },
        )
        self.traffic.ask("GET", path, params)
        try:
            return await http.send(request, stream=True)
        except (httpx2.HTTPError, OSError) as error:
            waited_s = silence_s if isinstance(error, httpx2.ReadTimeout) else None
            raise failures.of_network(error, self.target, waited_s or CONNECT_TIMEOUT_S) from None

    async def _asked(self, ask: _Ask, what: str, *, num_tries: int) -> bytes:
        pause_s = FIRST_PAUSE_S
        for tries_left in range(num_tries - 1, -1, -1):
            try:
                response, proof = await self._answered(ask)
            except Broken as broken:
                if ask.is_once or not tries_left:
                    raise failures.of_network(broken.__cause__ or broken, self.target, READ_TIMEOUT_S) from None
                await asyncio.sleep(pause_s)
            else:
                if response.status_code in _DONE:
                    return response.content
                if response.status_code not in (_REFUSED_FOR_NOW if ask.is_once else _BUSY) or not tries_left:
                    status, date = response.status_code, response.headers.get("date", "")
                    raise failures.of_status(status, response.content, self.target, proof, what, date=date)
                await asyncio.sleep(_pause_s(response.headers.get("retry-after"), pause_s))
            pause_s *= 2
        raise AssertionError("the last try returns or raises")

    async def pages(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        accept: str = JSON,
        limit: int = PAGE_SIZE,
        what: str = "",
    ) -> AsyncIterator[Page]:
        """The pages of a list, consistent among themselves.

        A continue token lives about five minutes. When one has expired (410 Gone) the list is begun anew, once; a
        second time is an error.
        Source: https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks
        """
        what = what or f"list {failures.object_at(path)}"
        token, may_begin_anew = "", True
        while True:
            asked = {**(params or {}), "limit": str(limit), **({"continue": token} if token else {})}
            try:
                body = await self.get(path, params=asked, accept=accept, what=what)
            except ClusterError as error:
                if error.status != _GONE or not token or not may_begin_anew:
                    raise
                token, may_begin_anew = "", False
                continue
            found = self._list(body, what)
            yield Page(
                items=tuple(bytes(item) for item in found.items or ()),
                kind=found.kind,
                is_first=not token,
                num_remaining=found.metadata.remainingItemCount if found.metadata.next else 0,
                resource_version=found.metadata.resourceVersion or "",
            )
            token = found.metadata.next or ""
            if not token:
                return

    def _list(self, body: bytes, what: str) -> _List:
        try:
            return _lists.decode(body)
        except NOT_JSON:
            raise failures.no_json(self.target, what) from None

    async def _answered(self, ask: _Ask) -> tuple[Answer, Proof]:
        """An answer, whatever its status; one of 401 is asked for again with credentials made anew, once."""
        proof = await self._credentials.proof()
        response = await self._send(ask, proof)
        if response.status_code == 401 and self._credentials.can_renew:
            proof = await self._credentials.proof(refused=proof)
            response = await self._send(ask, proof)
        return response, proof

    async def _send(self, ask: _Ask, proof: Proof) -> Answer:
        http = await self._opened(proof)
        content = [("Content-Type", ask.content_type)] if ask.content else []
        headers = [*proof.headers, ("Accept", ask.accept), *content]
        self.traffic.ask(ask.method, ask.path, ask.params)
        if self._direct is not None and not ask.is_list and self._direct.takes(ask.path, headers):
            return await self._send_directly(self._direct, ask, headers)
        import httpx2

        name = self.target.tls_server_name
        try:
            response = await http.request(
                ask.method,
                f"{self.target.server}{ask.path}",
                params=ask.params,
                content=ask.content or None,
                headers=headers,
                extensions={"sni_hostname": name} if name else None,
            )
            return Answer(status_code=response.status_code, content=response.content, headers=response.headers)
        except (httpx2.ReadError, httpx2.WriteError, httpx2.RemoteProtocolError) as error:
            if failures.tls_error(error) is not None:
                raise failures.of_network(error, self.target, READ_TIMEOUT_S) from None
            raise Broken from error
        except httpx2.DecodingError:
            raise failures.no_json(self.target, f"{ask.method.lower()} {ask.path}") from None
        except (httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise failures.of_network(error, self.target, CONNECT_TIMEOUT_S) from None
        except (httpx2.HTTPError, httpx2.InvalidURL, OSError) as error:
            raise failures.of_network(error, self.target, READ_TIMEOUT_S) from None

    async def _send_directly(self, direct: Direct, ask: _Ask, headers: Sequence[tuple[str, str]]) -> Answer:
        try:
            return await direct.ask(ask.method, ask.path, params=ask.params, headers=headers, content=ask.content)
        except Broken as error:
            if failures.tls_error(error) is not None:
                raise failures.of_network(error, self.target, READ_TIMEOUT_S) from None
            raise
        except OSError as error:
            waited_s = CONNECT_TIMEOUT_S if isinstance(error, NotConnected) else READ_TIMEOUT_S
            raise failures.of_network(error, self.target, waited_s) from None

    async def _opened(self, proof: Proof) -> httpx2.AsyncClient:
        """The connection pool; a new one when a plugin gave another certificate."""
        async with self._opening:
            if self._http is not None and self._shown == (proof.certificate, proof.key):
                return self._http
            await self.close()
            self._http = self._open(proof)
            self._shown = (proof.certificate, proof.key)
            return self._http

    def _open(self, proof: Proof) -> httpx2.AsyncClient:
        _need_httpx2()
        import httpx2

        agent = f"ironloom/{__version__}"
        headers = {"User-Agent": agent}
        context = tls_context(self.target, proof)
        if may_ask(self.target.server, self.target.proxy_url):
            self._direct = Direct(
                self.target.server,
                tls=context,
                server_name=self.target.tls_server_name,
                agent=agent,
                connect_within_s=CONNECT_TIMEOUT_S,
                answer_within_s=READ_TIMEOUT_S,
                max_connections=MAX_CONNECTIONS,
            )
        if self.target.disables_compression:
            headers["Accept-Encoding"] = "identity"
        try:
            return httpx2.AsyncClient(
                verify=context,
                proxy=self.target.proxy_url or None,
                timeout=httpx2.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=None),
                limits=httpx2.Limits(max_connections=MAX_CONNECTIONS),
                headers=headers,
            )
        except (ImportError, ValueError, httpx2.InvalidURL) as error:
            raise UsageError(
                f"proxy-url {self.target.proxy_url} of context {self.target.context} cannot be used: {error}",
                hint="http:// and https:// proxies can",
            ) from None


def _need_httpx2() -> None:
    if find_spec("httpx2") is None:
        raise UsageError(
            "A live cluster is read with the package httpx2, which is not installed",
            hint="pip install 'ironloom[kubernetes]'",
        )


def _pause_s(retry_after: str | None, pause_s: float) -> float:
    """What the server asks for, in bounds; else what was to be waited anyway."""
    try:
        return min(MAX_PAUSE_S, max(0.0, float(retry_after))) if retry_after is not None else pause_s
    except ValueError:
        return pause_s


def tls_context(target: Target, proof: Proof) -> ssl.SSLContext:
    """What a connection trusts and shows. Raises ClusterError for certificates that are none."""
    try:
        context = ssl.create_default_context(cadata=target.authority.decode("ascii") if target.authority else None)
    except (ssl.SSLError, ValueError) as error:
        raise ClusterError(
            f"certificate-authority of context {target.context} holds no certificate ({error})",
            hint=f"see {target.file}",
        ) from None
    if target.skips_verification:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if proof.certificate:
        _show(context, target, proof)
    return context


def _show(context: ssl.SSLContext, target: Target, proof: Proof) -> None:
    """Load the client's certificate. OpenSSL's binding reads files alone, so they are written for a moment."""
    with TemporaryDirectory(prefix="ironloom-") as folder:
        certificate, key = Path(folder, "certificate.pem"), Path(folder, "key.pem")
        certificate.write_bytes(proof.certificate)
        key.touch(mode=0o600)
        key.write_bytes(proof.key or proof.certificate)
        try:
            # A password of no characters: OpenSSL would ask for one on the terminal.
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            why = getattr(error, "reason", None) or str(error)
            raise ClusterError(
                f"The client certificate and key of user {target.user.name} cannot be used: {why}",
                hint=f"see {target.file}; an encrypted key cannot be read",
            ) from None
