"""The gateway's own objects in a cluster, as functions of a setting; what applies and removes them is install_apply.

    ServiceAccount, Role, RoleBinding   what it may do, in one namespace
    Deployment                          the daemon, `ironloom up --in-cluster`
    Service                             port 80, for clients in the cluster
    Secret                              hashes of the keys that it makes; written by the gateways alone
    PodDisruptionBudget                 where it has replicas to spare
    HTTPRoute or Ingress                where a Gateway or a host is named

The Secret `ironloom-key` with the control key is none of them: it is made once and never written again, and stands in
no manifest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from ironloom import __version__
from ironloom.backends.kubernetes import roles
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
LABELS: Final = {"app.kubernetes.io/name": NAME}
USER_ID: Final = 65532
"""No user of the image's own has it; by convention that of `nonroot` in images without a shell."""
LEAVE_S: Final = 5
"""An ending gateway goes on answering so long, until Services and routes have heard."""
GRACE_S: Final = 340
"""Longer than the daemon waits for requests in flight (a service's timeout, 300 s)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a person chooses. Raises UsageError for what contradicts itself."""

    namespace: str
    image: str = IMAGE
    num_replicas: int = 1
    gateway: str = ""
    """Of the Gateway API, `NAME` or `NAMESPACE/NAME`: a route of it leads here."""
    ingress_host: str = ""
    """The name under which an Ingress leads here."""

    def __post_init__(self) -> None:
        if self.gateway and self.ingress_host:
            raise UsageError(
                "--gateway and --ingress-host are two ways in", hint="name one; without both it is a port-forward"
            )


def objects(setting: Setting) -> list[Object]:
    """In the order of applying; a removal goes backwards."""
    made = [
        _named("v1", "ServiceAccount", setting),
        _with_labels(roles.role(setting.namespace)),
        {
            **_named("rbac.authorization.k8s.io/v1", "RoleBinding", setting),
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": NAME},
            "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": setting.namespace}],
        },
        # Without data: what the gateways write into it is theirs, and stays as it is.
        {**_named("v1", "Secret", setting), "type": "Opaque"},
        {**_named("apps/v1", "Deployment", setting), "spec": _deployment(setting)},
        {
            **_named("v1", "Service", setting),
            "spec": {"selector": dict(LABELS), "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
        },
    ]
    if setting.num_replicas > 1:
        spec = {"maxUnavailable": 1, "selector": {"matchLabels": dict(LABELS)}}
        made.append({**_named("policy/v1", "PodDisruptionBudget", setting), "spec": spec})
    if setting.gateway:
        made.append({**_named("gateway.networking.k8s.io/v1", "HTTPRoute", setting), "spec": _route(setting)})
    if setting.ingress_host:
        made.append({**_named("networking.k8s.io/v1", "Ingress", setting), "spec": _ingress(setting)})
    return made


def _named(api_version: str, kind: str, setting: Setting) -> Object:
    return _with_labels(
        {"apiVersion": api_version, "kind": kind, "metadata": {"name": NAME, "namespace": setting.namespace}}
    )


def _with_labels(one: Object) -> Object:
    return {**one, "metadata": {**one["metadata"], "labels": {**LABELS, **MANAGED_BY}}}


def _deployment(setting: Setting) -> Object:
    labels = {**LABELS, "app.kubernetes.io/version": __version__}
    return {
        "replicas": setting.num_replicas,
        "selector": {"matchLabels": dict(LABELS)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
        "template": {"metadata": {"labels": labels}, "spec": _pod(setting)},
    }


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
            {"name": "state", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "key", "secret": {"secretName": KEY_SECRET, "defaultMode": 0o440}},
        ],
    }


def _container(setting: Setting) -> Object:
    args = ["up", "--in-cluster", "--shared", "--host", "0.0.0.0", "--port", str(PORT), "--state", STATE]
    return {
        "name": "gateway",
        "image": setting.image,
        "args": [*args, "--control-key-file", f"{KEY_FOLDER}/{KEY_FIELD}"],
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
        # No limit of CPU: a gateway that is throttled delays every request, and its own use is small.
        "resources": {"requests": {"cpu": "250m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "state", "mountPath": STATE},
            {"name": "tmp", "mountPath": "/tmp"},
            {"name": "key", "mountPath": KEY_FOLDER, "readOnly": True},
        ],
    }


def _route(setting: Setting) -> Object:
    namespace, _, name = setting.gateway.rpartition("/")
    parent = {"name": name, **({"namespace": namespace} if namespace else {})}
    # Requests are held while a replica starts: the route's own patience is off, and the gateway's counts.
    rule = {"backendRefs": [{"name": NAME, "port": 80}], "timeouts": {"request": "0s"}}
    return {"parentRefs": [parent], "rules": [rule]}


def _ingress(setting: Setting) -> Object:
    backend = {"service": {"name": NAME, "port": {"name": "http"}}}
    path = {"path": "/", "pathType": "Prefix", "backend": backend}
    return {"rules": [{"host": setting.ingress_host, "http": {"paths": [path]}}]}


# --- the same as a chart ---

_VALUES: Final = {"namespace": "{{ .Release.Namespace }}", "image": "{{ .Values.image }}"}
_REPLICAS: Final = 987654321
"""Stands where the chart's number of replicas goes: a number, as everywhere else."""


def chart(setting: Setting) -> dict[str, str]:
    """A Helm chart's files by path. Rendered with its own values and in the setting's namespace it is `objects`; the
    budget and the way in are in it as they are there."""
    import yaml

    def text(one: Any) -> str:
        return yaml.safe_dump(one, sort_keys=False, allow_unicode=True, width=10_000)

    template = Setting(
        namespace=_VALUES["namespace"],
        image=_VALUES["image"],
        num_replicas=_REPLICAS if setting.num_replicas > 1 else 1,
        gateway=setting.gateway,
        ingress_host=setting.ingress_host,
    )
    files = {
        "Chart.yaml": text(
            {
                "apiVersion": "v2",
                "name": NAME,
                "description": "Ironloom's gateway: OpenAI's API before services that scale to zero.",
                "type": "application",
                "version": __version__,
                "appVersion": __version__,
            }
        ),
        "values.yaml": text({"image": setting.image, "replicas": setting.num_replicas}),
    }
    for one in objects(template):
        # Quoted by YAML already where it must be: a template begins with a brace.
        body = text(one).replace(str(_REPLICAS), "{{ .Values.replicas }}")
        files[f"templates/{one['kind'].lower()}.yaml"] = body
    return files
