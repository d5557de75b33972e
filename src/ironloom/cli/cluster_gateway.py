"""The gateway in a cluster as a command reaches it: through the API server's proxy of its pod, with the user's own
rights, so that nothing has to be opened or forwarded.

The Lease names the pod that decides, and its version; the Secret holds the control key. Who may read that Secret and
use the proxy may do all that the gateway may.
Source: https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/#manually-constructing-apiserver-proxy-urls
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ironloom import __version__
from ironloom.cli.client import Client
from ironloom.cli.cluster_runs import options_of
from ironloom.cli.output import say
from ironloom.cli.settings import Target
from ironloom.errors import ClusterError, DaemonError, IronloomError, UsageError

if TYPE_CHECKING:
    from ironloom.backends.kubernetes.kubeconfig import Target as Cluster
    from ironloom.backends.kubernetes.lease import Record
    from ironloom.backends.kubernetes.training import NoSuchRunError


CLOSED = frozenset({0, 401})
"""Status of a ClusterError where the cluster answers nothing at all, be it unreachable or unknown who asks."""
NONE_OF_THAT_NAME = "the gateway has none of that name"


def gateway_of(context: str, namespace: str | None) -> Client:
    """A client of the gateway that decides in a cluster's namespace. Raises UsageError where none is installed there or
    the namespace is not there, DaemonError where none decides, ClusterError where it cannot be asked, and what reading
    a kubeconfig raises."""
    found = gateway_or_none(context, namespace)
    if found is None:
        raise UsageError(
            f"There is {no_gateway(context, namespace)}.",
            hint=f"`{install_command(context, namespace)}` makes one; --namespace names another",
        )
    return found


def no_gateway(context: str, namespace: str | None) -> str:
    """What is said of a namespace that has none."""
    from ironloom.cli.install import cluster_of

    return f"no gateway of Ironloom in namespace {cluster_of(context, namespace).namespace} of context {context}"


def install_command(context: str, namespace: str | None) -> str:
    """What makes one there."""
    return f"ironloom install{options_of(context, namespace)}"


def gateway_or_none(context: str, namespace: str | None) -> Client | None:
    """The same; None where no gateway was ever there."""
    from ironloom.cli.install import cluster_of

    cluster = cluster_of(context, namespace)
    found = asyncio.run(_asked(cluster))
    if found is None:
        return None
    to, record = found
    if record.version and record.version != __version__:
        say(skew_note(record.version))
    return Client(to)


def services_or_runs(
    context: str, namespace: str | None, names: Sequence[str], runs: Callable[[str | None], None]
) -> Client | None:
    """The gateway's client where it has a service of these names, or any at all; else None, and `runs` has done what
    was asked for with training runs: without a gateway, and where nothing that is named is its service. It is given
    why there is no service, and a run that is not there either is told with it; None where that is not known, and then
    a run that is not there has to be raised. A gateway that cannot be asked is said once; its reason is the one that is
    raised where the runs cannot be asked for either, or are not there."""
    from ironloom.backends.kubernetes.training import NoSuchRunError

    try:
        client = gateway_or_none(context, namespace)
        there = {view.name for view in client.services()} if client is not None else set()
    except (ClusterError, DaemonError) as error:
        if isinstance(error, ClusterError) and error.status in CLOSED:
            raise
        _runs_instead(runs, error)
        return None
    if there and (not names or there.intersection(names)):
        return client
    why = "the gateway has none"
    if client is None:
        why = f"there is {no_gateway(context, namespace)}, which `{install_command(context, namespace)}` makes"
    elif there:
        why = NONE_OF_THAT_NAME
    try:
        runs(why)
    except NoSuchRunError as error:
        raise neither(error, why) from None
    except ClusterError as error:
        if client is None or error.status != 403:
            raise
        if names:  # they may be runs that this user may not see
            said = f"There is no service {' or '.join(names)}, and runs are not looked for: {error}"
            raise UsageError(said, hint=error.hint) from None
        say(f"note: training runs are not listed: {error}")
        return client
    return None


def neither(error: NoSuchRunError, why: str) -> UsageError:
    """What is said of a name that is no run's and, as `why` says, no service's."""
    return UsageError(f"{error.message.rstrip('.')}, and no such service: {why}.", hint=error.hint)


def _runs_instead(runs: Callable[[str | None], None], why: ClusterError | DaemonError) -> None:
    """Of a gateway that this user may not ask no services are wanted; of one that is silent they are, and where there
    is no such run either it is what is told."""
    from ironloom.backends.kubernetes.training import NoSuchRunError

    is_hidden = isinstance(why, ClusterError) and why.status == 403
    try:
        runs("" if is_hidden else None)
    except ClusterError:
        raise why from None
    except IronloomError as error:
        if isinstance(error, NoSuchRunError) and not is_hidden:
            raise why from None
        say(f"note: {why}")
        raise
    say(f"note: {why}")


def skew_note(version: str) -> str:
    """What is said where the gateway in the cluster and this command differ."""
    return (
        f"note: the gateway in the cluster is Ironloom {version}, this command {__version__}: what only one of them "
        "knows is refused or not shown"
    )


async def _asked(cluster: Cluster) -> tuple[Target, Record] | None:
    from ironloom.backends.kubernetes import client as kube
    from ironloom.backends.kubernetes import installed
    from ironloom.backends.kubernetes.credentials import Credentials
    from ironloom.backends.kubernetes.install import PORT
    from ironloom.backends.kubernetes.install_apply import key_of, lease_of
    from ironloom.backends.kubernetes.roles import NAME

    namespace = cluster.namespace
    async with kube.Client(cluster) as client:
        record = await lease_of(client, namespace)
        if record is None:
            await installed.must_have(client, namespace)
            why = await installed.why_silent(client, namespace)
            if why is None:
                return None
            raise DaemonError(
                f"A gateway of Ironloom is installed in namespace {namespace}, and none of its pods answers yet: {why}",
                hint=f"`kubectl --context {cluster.context} -n {namespace} get pods -l app.kubernetes.io/name={NAME}` "
                "shows what they do",
            )
        if not record.holder:
            raise DaemonError(
                f"No gateway decides in namespace {namespace} at the moment",
                hint=f"`kubectl --context {cluster.context} -n {namespace} get pods -l app.kubernetes.io/name={NAME}` "
                "shows what they do",
            )
        key = await key_of(client, namespace)
    if cluster.proxy_url:
        raise DaemonError(
            f"Context {cluster.context} goes through a proxy, and a gateway is not reached that way.",
            hint="a port-forward and IRONLOOM_URL reach it: docs/guides/kubernetes-install.md",
        )
    proof = await Credentials(cluster).proof()
    port = int(record.url.rpartition(":")[2]) if record.url.rpartition(":")[2].isdigit() else PORT
    to = Target(
        url=cluster.server,
        prefix=f"/api/v1/namespaces/{namespace}/pods/{record.holder}:{port}/proxy",
        # The API server takes Authorization for itself; the gateway's own key goes where Anthropic's clients put it.
        headers=(*proof.headers, ("x-api-key", key)),
        tls=kube.tls_context(cluster, proof) if cluster.server.startswith("https:") else None,
        tls_name=cluster.tls_server_name,
        remote=True,
        place=f"context {cluster.context}, namespace {namespace}",
        options=f" --context {cluster.context} -n {namespace}",
    )
    return to, record
