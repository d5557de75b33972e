"""The gateway's objects as a Helm chart. Rendered with its own values and in the setting's namespace it is what
`install.objects` makes; its values are what a person would set of them, and more that Helm's users look for.

Objects are made as they are for an installation, with words in place of values, which become Helm's own after they have
been written as YAML. No value changes what the gateway may do, nor how its container is locked up.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final

from ironloom import __version__
from ironloom.backends.kubernetes import install
from ironloom.backends.kubernetes.install import KEY_FIELD, KEY_SECRET, RESOURCES, Object, Setting
from ironloom.backends.kubernetes.roles import NAME

_NAMESPACE: Final = "namespace-of-the-release"
"""Stands where the release's goes."""
_SLOT: Final = "slot-of-the-chart-"
_STRING: Final = {"type": "string"}
_OBJECT: Final = {"type": "object"}
_LIST: Final = {"type": "array"}


def values(setting: Setting) -> dict[str, Any]:
    """The chart's own values."""
    namespace, _, name = setting.gateway.rpartition("/")
    return {
        "image": setting.image,
        "imagePullSecrets": [],
        "replicas": setting.num_replicas,
        "state": {"size": setting.state_size, "storageClass": setting.state_class},
        "resources": RESOURCES,
        "nodeSelector": {},
        "tolerations": [],
        "clusterReads": setting.reads_cluster,
        "gateway": {"name": name, "namespace": namespace},
        "ingress": {"host": setting.ingress_host, "className": "", "annotations": {}},
    }


_COMMENTS: Final = {
    "image": "The gateway's image.",
    "imagePullSecrets": "Secrets of its registry: [{name: …}].",
    "replicas": "Gateways; one of them decides. With two or more there is a PodDisruptionBudget.",
    "state": "A volume of a size (10Gi) for each gateway, of a StorageClass or the default one: makes a StatefulSet.",
    "resources": "Of each gateway. A limit of CPU would delay every request.",
    "nodeSelector": "Nodes that it may run on.",
    "tolerations": "Taints of nodes that it may run on.",
    "clusterReads": "Let it list nodes, their pools and pods of all namespaces: a ClusterRole and its binding.",
    "gateway": "A Gateway (Gateway API) that leads to it: makes an HTTPRoute.",
    "ingress": "A host that leads to it: makes an Ingress.",
}
_SCHEMAS: Final[Mapping[str, Any]] = {
    "image": {**_STRING, "minLength": 1},
    "imagePullSecrets": _LIST,
    "replicas": {"type": "integer", "minimum": 1},
    "state": {**_OBJECT, "additionalProperties": False, "properties": {"size": _STRING, "storageClass": _STRING}},
    "resources": _OBJECT,
    "nodeSelector": _OBJECT,
    "tolerations": _LIST,
    "clusterReads": {"type": "boolean"},
    "gateway": {**_OBJECT, "additionalProperties": False, "properties": {"name": _STRING, "namespace": _STRING}},
    "ingress": {
        **_OBJECT,
        "additionalProperties": False,
        "properties": {"host": _STRING, "className": _STRING, "annotations": _OBJECT},
    },
    "global": _OBJECT,
}
_HOST: Final = f'.Values.ingress.host | default (print "{NAME}." .Release.Namespace ".svc")'
"""Of `install.url`, which is the last argument."""
KEY_COMMAND: Final = (
    f"kubectl -n {{namespace}} create secret generic {KEY_SECRET} --from-literal={KEY_FIELD}=il-$(openssl rand -hex 32)"
)
"""Makes the Secret that no manifest holds."""


def chart(setting: Setting) -> dict[str, str]:
    """Its files by path."""
    about = {
        "apiVersion": "v2",
        "name": NAME,
        "description": "Ironloom's gateway: OpenAI's API before services that scale to zero.",
        "type": "application",
        "version": __version__,
        "appVersion": __version__,
    }
    schema = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        "properties": dict(_SCHEMAS),
    }
    named = values(setting)
    return {
        "Chart.yaml": _yaml(about),
        "values.yaml": "\n".join(f"# {_COMMENTS[key]}\n{_yaml({key: value})}" for key, value in named.items()),
        "values.schema.json": json.dumps(schema, indent=2) + "\n",
        "templates/NOTES.txt": _NOTES,
        **_templates(),
    }


_NOTES: Final = f"""The gateway answers at http://{NAME}.{{{{ .Release.Namespace }}}}.svc/v1 once there is the Secret
{KEY_SECRET} with its control key, which this chart leaves to you:

  {KEY_COMMAND.format(namespace="{{ .Release.Namespace }}")}
"""


class _Slots:
    """Words that stand for what Helm fills in."""

    def __init__(self) -> None:
        self._filled: list[tuple[str, bool]] = []

    def of(self, expression: str, *, is_optional: bool = False) -> str:
        """A word in place of a value. One that is optional goes with its key where it is empty, and is `.` in its
        expression."""
        self._filled.append((expression, is_optional))
        return f"{_SLOT}{len(self._filled) - 1:03}"

    def fill(self, text: str) -> str:
        """YAML with Helm's own expressions."""
        for number, (expression, is_optional) in enumerate(self._filled):
            slot = f"{_SLOT}{number:03}"
            if is_optional:
                block = rf"\1{{{{- with {expression} }}}}\n\1\2: {{{{ toJson . }}}}\n\1{{{{- end }}}}"
                text = re.sub(rf"^( *(?:- )?)([A-Za-z]+): {slot}$", block, text, flags=re.MULTILINE)
            else:
                text = text.replace(slot, f"{{{{ {expression} }}}}")
        text = re.sub(rf": {_NAMESPACE}$", ": {{ .Release.Namespace | quote }}", text, flags=re.MULTILINE)
        return text.replace(_NAMESPACE, "{{ .Release.Namespace }}")


def _templates() -> dict[str, str]:
    slots = _Slots()
    plain, kept = Setting(namespace=_NAMESPACE), Setting(namespace=_NAMESPACE, state_size="1Gi")
    made = [(one, "not .Values.state.size" if one["kind"] == "Deployment" else "") for one in install.objects(plain)]
    made.append((install.stateful_set(kept), ".Values.state.size"))
    made += [(one, ".Values.clusterReads") for one in install.cluster_rights(_NAMESPACE)]
    made.append((install.budget(_NAMESPACE), "gt (int .Values.replicas) 1"))
    parent = {
        "name": slots.of(".Values.gateway.name | quote"),
        "namespace": slots.of(".Values.gateway.namespace", is_optional=True),
    }
    made.append((install.route(_NAMESPACE, parent), ".Values.gateway.name"))
    made.append((install.ingress(_NAMESPACE, slots.of(".Values.ingress.host | quote")), ".Values.ingress.host"))
    files = {}
    for one, condition in made:
        _open(one, slots)
        text = slots.fill(_yaml(one))
        files[f"templates/{one['kind'].lower()}.yaml"] = (
            f"{{{{- if {condition} }}}}\n{text}{{{{- end }}}}\n" if condition else text
        )
    return files


def _open(one: Object, slots: _Slots) -> None:
    """Put slots where values go."""
    if one["kind"] == "StatefulSet":
        [claim] = one["spec"]["volumeClaimTemplates"]
        claim["spec"]["resources"]["requests"]["storage"] = slots.of(".Values.state.size | quote")
        claim["spec"]["storageClassName"] = slots.of(".Values.state.storageClass", is_optional=True)
    if one["kind"] in {"Deployment", "StatefulSet"}:
        pod = one["spec"]["template"]["spec"]
        [container] = pod["containers"]
        one["spec"]["replicas"] = slots.of(".Values.replicas")
        container["image"] = slots.of(".Values.image | quote")
        container["resources"] = slots.of("toJson .Values.resources")
        container["args"][-1] = f"http://{slots.of(_HOST)}"
        for key in ("imagePullSecrets", "nodeSelector", "tolerations"):
            pod[key] = slots.of(f".Values.{key}", is_optional=True)
    if one["kind"] == "Ingress":
        one["spec"]["ingressClassName"] = slots.of(".Values.ingress.className", is_optional=True)
        one["metadata"]["annotations"] = slots.of(".Values.ingress.annotations", is_optional=True)


def _yaml(one: Any) -> str:
    import yaml

    return yaml.safe_dump(one, sort_keys=False, allow_unicode=True, width=10_000)
