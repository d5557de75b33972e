"""The gateway's own objects in a cluster, as functions of a setting. What applies and removes them is install_apply;
chart writes the same as a Helm chart.

    ServiceAccount, Role, RoleBinding   what it may do, in one namespace
    ClusterRole, ClusterRoleBinding     what it may read of the cluster as a whole, where that is asked for
    Deployment                          the daemon, `ironloom up --in-cluster`, whose state goes with its pod
    StatefulSet                         instead of it, where the state is to have a volume: each gateway has its own
    Service                             port 80, for clients in the cluster
    Secret                              hashes of the keys that it makes; written by the gateways alone
    PodDisruptionBudget                 where it has replicas to spare
    HTTPRoute or Ingress                where a Gateway or a host is named

The Secret `ironloom-key` with the control key is none of them: it is made once and never written again, and stands in
no manifest.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

from ironloom import __version__
from ironloom.backends.kubernetes import install_check, roles
from ironloom.backends.kubernetes.names import MANAGED_BY
from ironloom.backends.kubernetes.roles import NAME
from ironloom.errors import UsageError

Object = dict[str, Any]

PORT: Final = 11500
IMAGE: Final = f"ironloom:{__version__}"
KEY_SECRET: Final = "ironloom-key"
KEY_FIELD: Final = "token"
KEY_FOLDER: Final = "/etc/ironloom"
STATE: Final = "/var/lib/ironloom"
STATE_VOLUME: Final = "state"
CLAIM_PREFIX: Final = f"{STATE_VOLUME}-{NAME}-"
"""Of the claims of a StatefulSet's pods: the volume's name, the pod's, which ends in its number."""
LABELS: Final = {"app.kubernetes.io/name": NAME}
USER_ID: Final = 65532
"""No user of the image's own has it; by convention that of `nonroot` in images without a shell."""
LEAVE_S: Final = 5
"""An ending gateway goes on answering so long, until Services and routes have heard."""
GRACE_S: Final = 340
"""Longer than the daemon waits for requests in flight (a service's timeout, 300 s)."""
RESOURCES: Final = {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
"""No limit of CPU: a gateway that is throttled delays every request, and its own use is small."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a person chooses. Raises UsageError for what contradicts itself, and for names that are none."""

    namespace: str
    image: str = IMAGE
    num_replicas: int = 1
    gateway: str = ""
    """Of the Gateway API, `NAME` or `NAMESPACE/NAME`: a route of it leads here."""
    ingress_host: str = ""
    """The name under which an Ingress leads here."""
    state_size: str = ""
    """Of each gateway's volume, a quantity of Kubernetes (`10Gi`); empty: its state goes with its pod."""
    state_class: str = ""
    """The StorageClass of the volumes; empty: the cluster's default."""
    reads_cluster: bool = False
    """Whether it may list what belongs to the cluster as a whole: nodes, their pools, pods of all namespaces."""

    def __post_init__(self) -> None:
        install_check.check_namespace(self.namespace)
        install_check.check_image(self.image)
        if self.gateway and self.ingress_host:
            raise UsageError(
                "--gateway and --ingress-host are two ways in", hint="name one; without both it is a port-forward"
            )
        if self.gateway:
            install_check.check_gateway(self.gateway)
        if self.ingress_host:
            install_check.check_host(self.ingress_host)
        install_check.check_state(self.state_size, self.state_class)


def objects(setting: Setting) -> list[Object]:
    """In the order of applying; a removal goes backwards."""
    made = [named("v1", "ServiceAccount", setting.namespace), *rights(setting.namespace)]
    if setting.reads_cluster:
        made += cluster_rights(setting.namespace)
    made += [
        # Without data: what the gateways write into it is theirs, and stays as it is.
        {**named("v1", "Secret", setting.namespace), "type": "Opaque"},
        stateful_set(setting) if setting.state_size else deployment(setting),
        {
            **named("v1", "Service", setting.namespace),
            "spec": {"selector": dict(LABELS), "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
    ]
    if setting.num_replicas > 1:
        made.append(budget(setting.namespace))
    if setting.gateway:
        namespace, _, name = setting.gateway.rpartition("/")
        made.append(route(setting.namespace, {"name": name, **({"namespace": namespace} if namespace else {})}))
    if setting.ingress_host:
        made.append(ingress(setting.namespace, setting.ingress_host))
    return made


def named(api_version: str, kind: str, namespace: str) -> Object:
    """The beginning of one of its objects."""
    return _with_labels({"apiVersion": api_version, "kind": kind, "metadata": {"name": NAME, "namespace": namespace}})


def _with_labels(one: Object) -> Object:
    return {**one, "metadata": {**one["metadata"], "labels": {**LABELS, **MANAGED_BY}}}


def rights(namespace: str) -> list[Object]:
    """What it may do in its own namespace."""
    return [_with_labels(roles.role(namespace)), _with_labels(roles.role_binding(namespace))]


def cluster_rights(namespace: str) -> list[Object]:
    """What it may read of the cluster as a whole."""
    return [_with_labels(roles.cluster_role(namespace)), _with_labels(roles.cluster_role_binding(namespace))]


def deployment(setting: Setting) -> Object:
    """The gateways themselves, each with a state that goes with its pod."""
    pod = _pod(setting)
    pod["volumes"].insert(0, {"name": STATE_VOLUME, "emptyDir": {}})
    spec = {
        **_replicas(setting, pod),
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
    }
    return {**named("apps/v1", "Deployment", setting.namespace), "spec": spec}


def stateful_set(setting: Setting) -> Object:
    """The gateways themselves, each with a volume that it finds again. They need nothing of each other, so they start
    at once; a rollout takes them one by one."""
    pod = _pod(setting)
    # A volume of many files is not walked at each start.
    pod["securityContext"]["fsGroupChangePolicy"] = "OnRootMismatch"
    claim: Object = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": STATE_VOLUME, "labels": {**LABELS, **MANAGED_BY}},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": setting.state_size}}},
    }
    if setting.state_class:
        claim["spec"]["storageClassName"] = setting.state_class
    spec = {
        **_replicas(setting, pod),
        "serviceName": NAME,
        "podManagementPolicy": "Parallel",
        "updateStrategy": {"type": "RollingUpdate"},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Retain", "whenScaled": "Retain"},
        "volumeClaimTemplates": [claim],
    }
    return {**named("apps/v1", "StatefulSet", setting.namespace), "spec": spec}


def _replicas(setting: Setting, pod: Object) -> Object:
    """What both forms say of their pods."""
    labels = {**LABELS, "app.kubernetes.io/version": __version__}
    return {
        "replicas": setting.num_replicas,
        "selector": {"matchLabels": dict(LABELS)},
        "template": {"metadata": {"labels": labels}, "spec": pod},
    }


def budget(namespace: str) -> Object:
    """Where one of several may be spared."""
    spec = {"maxUnavailable": 1, "selector": {"matchLabels": dict(LABELS)}}
    return {**named("policy/v1", "PodDisruptionBudget", namespace), "spec": spec}


def _pod(setting: Setting) -> Object:
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": dict(LABELS)},
    }
    return {
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": GRACE_S,
        "topologySpreadConstraints": [spread],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER_ID,
            "runAsGroup": USER_ID,
            "fsGroup": USER_ID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(setting)],
        "volumes": [
            {"name": "tmp", "emptyDir": {}},
            {"name": "key", "secret": {"secretName": KEY_SECRET, "defaultMode": 0o440}},
        ],
    }


def url(setting: Setting) -> str:
    """Where clients reach it: a host that leads here, or the Service. A Gateway of the Gateway API has the hosts of its
    own listeners, which are not looked up."""
    return f"http://{setting.ingress_host or f'{NAME}.{setting.namespace}.svc'}"


def _container(setting: Setting) -> Object:
    args = ["up", "--in-cluster", "--shared", "--host", "0.0.0.0", "--port", str(PORT), "--state", STATE]
    return {
        "name": "gateway",
        "image": setting.image,
        "args": [*args, "--control-key-file", f"{KEY_FOLDER}/{KEY_FIELD}", "--url", url(setting)],
        "env": [
            {"name": "HOME", "value": STATE},
            {"name": "TMPDIR", "value": "/tmp"},
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": "http"}, "periodSeconds": 2, "timeoutSeconds": 2},
        "livenessProbe": {
            "httpGet": {"path": "/healthz", "port": "http"},
            "periodSeconds": 10,
            "timeoutSeconds": 5,
            "failureThreshold": 6,
        },
        "startupProbe": {"httpGet": {"path": "/healthz", "port": "http"}, "periodSeconds": 1, "failureThreshold": 60},
        "lifecycle": {"preStop": {"sleep": {"seconds": LEAVE_S}}},
        "resources": deepcopy(RESOURCES),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": STATE_VOLUME, "mountPath": STATE},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "key", "mountPath": KEY_FOLDER, "readOnly": True},
        ],
    }


def route(namespace: str, parent: Object) -> Object:
    """From a Gateway of the Gateway API."""
    # Requests are held while a replica starts: the route's own patience is off, and the gateway's counts.
    rule = {"backendRefs": [{"name": NAME, "port": 80}], "timeouts": {"request": "0s"}}
    spec = {"parentRefs": [parent], "rules": [rule]}
    return {**named("gateway.networking.k8s.io/v1", "HTTPRoute", namespace), "spec": spec}


def ingress(namespace: str, host: str) -> Object:
    """From a host, by the cluster's own Ingress controller."""
    backend = {"service": {"name": NAME, "port": {"name": "http"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    spec = {"rules": [{"host": host, "http": {"paths": [path]}}]}
    return {**named("networking.k8s.io/v1", "Ingress", namespace), "spec": spec}
