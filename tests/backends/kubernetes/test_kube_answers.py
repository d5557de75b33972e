"""Whatever an API server or a plugin says ends in a value or a sentence."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from ironloom.backends.kubernetes import credentials, failures
from ironloom.backends.kubernetes.client import Client
from ironloom.backends.kubernetes.credentials import Credentials, Proof
from ironloom.backends.kubernetes.discovery import discover
from ironloom.backends.kubernetes.kubeconfig import ExecPlugin, Target, User
from ironloom.errors import ClusterError

TARGET = Target(context="prod", server="https://203.0.113.7:6443", user=User(name="ada"), file="config")
PLUGIN = ExecPlugin(command="login", api_version="client.authentication.k8s.io/v1")
KEYS = st.sampled_from(
    ["kind", "status", "token", "expirationTimestamp", "clientCertificateData", "clientKeyData", "reason", "message",
     "items", "groups", "versions", "resources", "metadata", "name", "version", "groupVersion", "verbs", "continue"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=10,
)
BODIES = st.binary(max_size=40) | VALUES.map(lambda value: json.dumps(value).encode())


@settings(max_examples=300, deadline=None)
@given(body=BODIES, status=st.integers(300, 599))
def test_any_answer_that_is_no_success_is_a_sentence(body: bytes, status: int) -> None:
    error = failures.of_status(status, body, TARGET, Proof(), "list pods")
    assert error.status == status
    assert "\n" not in error.message
    assert "prod" in error.message


@settings(max_examples=300, deadline=None)
@given(body=BODIES)
def test_whatever_a_plugin_prints_is_a_proof_or_a_sentence(body: bytes) -> None:
    with suppress(ClusterError):
        proof = credentials._status(body, PLUGIN, TARGET)
        assert proof.token or (proof.certificate and proof.key)


class Saying(Client):
    """A client to which the server always says the same."""

    def __init__(self, body: bytes) -> None:
        super().__init__(TARGET)
        self.body = body

    async def get(self, path: str, **_: object) -> bytes:  # type: ignore[override]
        return self.body


@settings(max_examples=300, deadline=None)
@given(body=BODIES)
def test_any_answer_to_discovery_is_read_or_a_sentence(body: bytes) -> None:
    with suppress(ClusterError):
        served = asyncio.run(discover(Saying(body)))
        assert all("/" in kind for kind in served.kinds)


def test_a_proof_is_kept_until_it_ends_or_is_refused_and_made_once_for_all_who_wait() -> None:
    now = [100.0]
    made: list[Proof] = []

    class Counting(Credentials):
        async def _made(self) -> Proof:
            await asyncio.sleep(0)
            made.append(Proof(token=f"token-{len(made)}", until_s=now[0] + 60))
            return made[-1]

    async def run() -> None:
        keeper = Counting(TARGET, now=lambda: now[0])
        first = await asyncio.gather(*(keeper.proof() for _ in range(5)))
        assert {proof.token for proof in first} == {"token-0"}
        now[0] += 59
        assert (await keeper.proof()).token == "token-0"
        now[0] += 2
        assert (await keeper.proof()).token == "token-1", "it ended"
        refused = await keeper.proof()
        again = await asyncio.gather(*(keeper.proof(refused=refused) for _ in range(5)))
        assert {proof.token for proof in again} == {"token-2"}
        assert (await keeper.proof(refused=refused)).token == "token-2", "another was refused, not this one"

    asyncio.run(run())
