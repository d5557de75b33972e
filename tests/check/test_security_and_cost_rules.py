"""Security and cost: what is found, on which place, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from ironloom.check import registry
from ironloom.check.engine import Result, Setting, check
from ironloom.check.finding import Finding, Severity
from ironloom.check.inputs import read_texts
from ironloom.check.rules import examples
from ironloom.check.rules.secrets import kind_of
from ironloom.check.rules.supply import moving_tag

RULES = registry.select(["security", "cost"])
HF = "hf_" + "QwErTyUiOpAsDfGhJkLzXcVbNmQwErTyUi"
"""Put together here, so that no scanner takes this file for a leak."""


def run(*objects: dict[str, Any], **setting: Any) -> Result:
    text = "---\n".join(yaml.safe_dump(obj, sort_keys=False) for obj in objects)
    result = check(read_texts({"w.yaml": text}), RULES, Setting(**setting))
    assert result.faults == ()
    return result


def found(*objects: dict[str, Any], **setting: Any) -> dict[str, Finding]:
    return {finding.rule: finding for finding in run(*objects, **setting).findings if finding.rule >= "IL8"}


def pod(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A pod that is well: one GPU, cpu and memory, a pinned image."""
    main = {
        "name": "main",
        "image": "vllm/vllm-openai:v0.11.0",
        "args": ["--model=Qwen/Qwen3-8B"],
        "resources": {"limits": {"nvidia.com/gpu": 1, "cpu": 8, "memory": "64Gi"}},
        **(container or {}),
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [main], **spec}}


def deployment(container: dict[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    labels = {"app": "llama"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "llama"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod(container, **spec)["spec"]},
        },
    }


def service(**spec: Any) -> dict[str, Any]:
    annotations = spec.pop("annotations", {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "llama", "annotations": annotations},
        "spec": {"selector": {"app": "llama"}, "ports": [{"port": 8000}], "type": "LoadBalancer", **spec},
    }


def env(**values: str) -> dict[str, Any]:
    return {"env": [{"name": name, "value": value} for name, value in values.items()]}


def limits(**amounts: Any) -> dict[str, Any]:
    return {"resources": {"limits": {key.replace("gpu", "nvidia.com/gpu"): value for key, value in amounts.items()}}}


def test_a_pod_that_is_well_has_no_findings() -> None:
    assert found(pod()) == {}
    assert found(deployment(), service(type="ClusterIP")) == {}


@pytest.mark.parametrize(
    ("container", "path"),
    [
        (env(HF_TOKEN=HF), "spec.containers[0].env[0].value"),
        (env(ANY_NAME=f"Bearer {HF}"), "spec.containers[0].env[0].value"),
        (env(WANDB_API_KEY="0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c"), "spec.containers[0].env[0].value"),
        ({"args": ["--model=Qwen/Qwen3-8B", "--api-key=correct7horse9"]}, "spec.containers[0].args[1]"),
        ({"command": ["sh", "-c", f"hf auth login --token {HF} && vllm serve x/y"]}, "spec.containers[0].command[2]"),
    ],
)
def test_a_secret_is_found_where_it_stands(container: dict[str, Any], path: str) -> None:
    finding = found(pod(container))["IL801"]
    assert finding.path == path
    assert finding.line
    assert HF not in finding.message, "the finding does not tell it on"


@pytest.mark.parametrize(
    "container",
    [
        env(HF_TOKEN="<YOUR_HF_TOKEN>"),
        env(HF_TOKEN="hf_xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"),
        env(HF_TOKEN="${HF_TOKEN}"),
        env(HF_TOKEN=""),
        env(OPENAI_API_KEY="EMPTY"),
        env(VLLM_API_KEY="replace-me-123456"),
        env(HF_HOME="/models/hf_cache1234567890abcdefghijklmn"),
        {"args": ["--model=Qwen/Qwen3-8B", "--api-key=$(API_KEY)"]},
        {"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf", "key": "token"}}}]},
    ],
)
def test_what_stands_for_a_secret_is_none(container: dict[str, Any]) -> None:
    assert "IL801" not in found(pod(container))


def test_one_secret_is_one_finding() -> None:
    key = "sk-" + "kFJ12nKsFVfVmGpj3QzX65s4RbN2xJqW"
    result = run(pod({"args": ["--model=Qwen/Qwen3-8B", "--api-key", key, f"--hf-token={HF}"]}))
    said = [(finding.path, finding.rule) for finding in result.findings]
    assert said == [("spec.containers[0].args[2]", "IL801"), ("spec.containers[0].args[3]", "IL801")]


def test_issuers_forms_are_known_and_words_are_not_taken_for_them() -> None:
    assert kind_of("AKIA" + "IOSFODNN7ABCDEFG") == "an AWS access key"
    assert kind_of("AKIA" + "IOSFODNN7EXAMPLE") == "", "the documentation's own"
    assert kind_of("-----BEGIN " + "RSA PRIVATE KEY-----\nMIIE") == "a private key"
    for text in ("", "sk-learn", "task-runner-with-a-long-name-0123456789abcdef", "hf_transfer", "hf_hub_download"):
        assert kind_of(text) == ""


def test_a_config_map_is_read_too() -> None:
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
    assert found({**config, "data": {"env.sh": f"export HF_TOKEN={HF}"}})["IL802"].path == "data['env.sh']"
    assert found({**config, "data": {"HF_TOKEN": "see the secret", "MODEL": "Qwen/Qwen3-8B"}}) == {}
    assert found({**config, "kind": "Secret", "stringData": {"token": HF}}) == {}, "a Secret is where it belongs"


def test_a_privileged_container_is_worse_with_neighbours() -> None:
    privileged = {"securityContext": {"privileged": True}}
    one = found(pod(privileged))["IL803"]
    assert one.severity is Severity.WARNING
    assert "whatever its limit of 1 says" in one.message
    assert one.patch is not None
    assert not one.patch.is_safe
    half = pod({**privileged, **limits(gpu=4, cpu=8, memory="64Gi")})
    assert found(half)["IL803"].severity is Severity.NOTE, "it may be a node of four"
    assert found(half, fleet=examples.fleet(examples.node("a")))["IL803"].severity is Severity.WARNING
    assert "IL803" not in found(pod({**privileged, "args": [], "image": "x:1", "resources": {}})), "no GPU, no model"
    small = examples.fleet(examples.node("a", gpus=1))
    assert found(pod(privileged), fleet=small)["IL803"].severity is Severity.NOTE, "nodes of one GPU have no neighbours"


def test_gpus_past_the_scheduler() -> None:
    bare = {"resources": {"limits": {"cpu": 1, "memory": "1Gi"}}}
    assert "IL804" in found(pod({**bare, **env(NVIDIA_VISIBLE_DEVICES="all")}))
    assert "IL804" in found(pod({**bare, **env(NVIDIA_VISIBLE_DEVICES="0,1")}))
    device = [{"name": "gpu", "hostPath": {"path": "/dev/nvidia0"}}]
    assert found(pod(bare, volumes=device))["IL804"].path == "spec.volumes[0].hostPath.path"
    assert "IL804" not in found(pod({**bare, **env(NVIDIA_VISIBLE_DEVICES="none")}))
    assert "IL804" not in found(pod(env(NVIDIA_VISIBLE_DEVICES="all"))), "it asks for a GPU"
    assert "IL804" not in found(pod({**bare, **env(NVIDIA_VISIBLE_DEVICES="all")}, resourceClaims=[{"name": "gpu"}]))
    agent = deployment({**bare, **env(NVIDIA_VISIBLE_DEVICES="all")}) | {"kind": "DaemonSet"}
    assert "IL804" not in found(agent), "an exporter watches every GPU of its node"


def test_host_namespaces_and_capabilities() -> None:
    assert found(pod(hostPID=True))["IL805"].severity is Severity.WARNING
    assert found(pod(hostIPC=True))["IL805"].severity is Severity.NOTE
    assert found(pod(hostNetwork=True)) == {}, "RoCE and some fabrics want it"

    def adding(*names: str) -> dict[str, Any]:
        return pod({"securityContext": {"capabilities": {"add": list(names)}}})

    assert found(adding("IPC_LOCK", "SYS_PTRACE", "SYS_NICE", "NET_RAW", "SYS_RAWIO")) == {}
    finding = found(adding("IPC_LOCK", "CAP_SYS_MODULE"))["IL806"]
    assert finding.path == "spec.containers[0].securityContext.capabilities.add[1]"
    assert finding.severity is Severity.WARNING
    assert found(adding("SYS_ADMIN"))["IL806"].severity is Severity.NOTE, "profilers want it"


def test_the_nodes_own_files() -> None:
    def mounting(path: str, *, read_only: bool = False) -> dict[str, Any]:
        mount = {"name": "v", "mountPath": "/v", "readOnly": read_only}
        return pod({"volumeMounts": [mount]}, volumes=[{"name": "v", "hostPath": {"path": path}}])

    for path in ("/", "/etc/", "/var/run/docker.sock", "/run/containerd/containerd.sock"):
        assert "IL807" in found(mounting(path)), path
    for path in ("/mnt/models", "/dev/shm", "/sys", "/home/kubernetes/bin/nvidia", "/var/lib/models"):
        assert "IL807" not in found(mounting(path)), path
    assert "IL807" not in found(mounting("/etc", read_only=True))


@pytest.mark.parametrize(
    ("server", "door", "is_found"),
    [
        ({}, {}, True),
        ({"args": ["--model=Qwen/Qwen3-8B", "--api-key=$(KEY)"]}, {}, False),
        ({"env": [{"name": "VLLM_API_KEY", "valueFrom": {"secretKeyRef": {"name": "k", "key": "k"}}}]}, {}, False),
        ({"envFrom": [{"secretRef": {"name": "keys"}}]}, {}, False),
        ({}, {"type": "NodePort"}, False),
        ({}, {"loadBalancerSourceRanges": ["10.0.0.0/8"]}, False),
        ({}, {"annotations": {"networking.gke.io/load-balancer-type": "Internal"}}, False),
        ({}, {"annotations": {"service.beta.kubernetes.io/aws-load-balancer-internal": "true"}}, False),
        ({}, {"selector": {"app": "gateway"}}, False),
        ({"args": ["serve.py"], "image": "nginx:1.29"}, {}, False),
    ],
)
def test_a_server_behind_a_public_address(server: dict[str, Any], door: dict[str, Any], is_found: bool) -> None:
    assert ("IL808" in found(deployment(server), service(**door))) is is_found


@pytest.mark.parametrize(
    ("image", "tag"),
    [
        ("vllm/vllm-openai", "latest"),
        ("registry.local:5000/vllm", "latest"),
        ("vllm/vllm-openai:latest", "latest"),
        ("vllm/vllm-openai:nightly", "nightly"),
        ("x/y:cuda-nightly", "cuda-nightly"),
        ("x/y:main", "main"),
        ("vllm/vllm-openai:v0.11.0", None),
        ("registry.local:5000/vllm:2.1", None),
        ("x/y:nightly-4f1c2ab", None),
        ("x/y:latest@sha256:0123", None),
        ("$(IMAGE)", None),
        ("{{ .Values.image }}", None),
        ("", None),
        ("x/y:25.09-py3", None),
        ("python", "latest"),
        ("vllm-openai", None),
        ("vllm-openai:latest", "latest"),
        ("ko://example.com/cmd/server", None),
        ("YOUR_REGISTRY/vllm", None),
        ("your-registry/vllm:latest", None),
        ("registry.local:5000/Placeholder", None),
        ("x/replace-me:latest", None),
    ],
)
def test_which_tags_move(image: str, tag: str | None) -> None:
    assert moving_tag(image) == tag


def test_an_image_that_a_kustomization_names_is_pinned_there() -> None:
    for name, is_told in (("x/server", False), ("x/other", True)):
        kustomization = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "images": [{"name": name, "newTag": "v1.2.3"}],
        }
        assert ("IL810" in found(pod({"image": "x/server:latest"}), kustomization)) is is_told


def test_images_of_things_beside_gpus_are_not_looked_at() -> None:
    assert found(pod({"image": "nginx:latest", "args": [], "resources": {}})) == {}


@pytest.mark.parametrize(
    ("args", "is_found"),
    [
        (["--model=a/b", "--trust-remote-code"], True),
        (["--model=a/b", "--trust_remote_code"], True),
        (["--model=a/b", "--trust-remote-code", "--revision=abc"], False),
        (["--model=a/b", "--trust-remote-code", "--code-revision=abc"], False),
        (["--model=/models/b", "--trust-remote-code"], False),
        (["--model=a/b"], False),
    ],
)
def test_a_models_own_code_at_no_revision(args: list[str], is_found: bool) -> None:
    assert ("IL811" in found(pod({"args": args}))) is is_found


def test_development_endpoints() -> None:
    assert found(pod(env(VLLM_SERVER_DEV_MODE="1")))["IL809"].severity is Severity.NOTE
    assert found(pod(env(VLLM_ALLOW_INSECURE_SERIALIZATION="1")))["IL809"].severity is Severity.WARNING
    assert found(pod(env(VLLM_SERVER_DEV_MODE="0"))) == {}


@pytest.mark.parametrize(
    ("container", "is_found"),
    [
        ({"command": ["sleep", "infinity"], "args": []}, True),
        ({"command": ["/bin/sh", "-c"], "args": ["sleep infinity"]}, True),
        ({"command": ["bash", "-c", "tail -f /dev/null"], "args": []}, True),
        ({"command": ["bash", "-c", "while true; do sleep 30; done"], "args": []}, True),
        ({"command": ["sleep", "1000000"], "args": []}, True),
        ({"command": ["sleep", "300"], "args": []}, False),
        ({"command": ["bash", "-c", "python train.py; sleep infinity"], "args": []}, False),
        ({"command": ["bash", "-c", "ray start --head & sleep infinity"], "args": []}, False),
        ({"command": ["sleep", "infinity"], "args": [], "resources": {}}, False),
    ],
)
def test_gpus_for_a_sleep(container: dict[str, Any], is_found: bool) -> None:
    assert ("IL851" in found(pod(container))) is is_found


def test_a_sleeping_pod_with_a_deadline_ends() -> None:
    sleeping = {"command": ["sleep", "infinity"], "args": []}
    assert "IL851" not in found(pod(sleeping, activeDeadlineSeconds=28800))


def test_gpus_that_only_an_init_container_asks_for() -> None:
    def init(gpus: int, **words: Any) -> list[dict[str, Any]]:
        return [{"name": "i", "image": "x:1", **limits(gpu=gpus), **words}]

    finding = found(pod(initContainers=init(2)))["IL852"]
    assert finding.path == "spec.initContainers[0].resources"
    assert "asks for 2 GPUs and the containers for 1" in finding.message
    assert "IL852" not in found(pod(initContainers=init(1)))
    assert "IL852" not in found(pod(initContainers=init(2, restartPolicy="Always"))), "a sidecar runs on"


@pytest.mark.parametrize(
    ("command", "is_found"),
    [
        (["huggingface-cli", "download", "a/b"], True),
        (["bash", "-c", "set -e; mkdir -p /models && hf download a/b --local-dir /models"], True),
        (["aws", "s3", "sync", "s3://b/m", "/models"], True),
        (["bash", "-c", "hf download a/b && python train.py"], False),
        (["bash", "-c", "wget -qO- http://x/y | python -"], False),
        (["bash", "-c", "curl -sL http://x/y.tgz | tar xz -C /data"], True),
        (["python", "-c", "import torch"], False),
        (["bash", "-c", "git clone http://x/y && cd y && make"], False),
    ],
)
def test_gpus_for_a_download(command: list[str], is_found: bool) -> None:
    assert ("IL853" in found(pod({"command": command, "args": []}))) is is_found


def test_a_pod_of_gpus_alone_is_the_first_to_go() -> None:
    assert "IL854" in found(pod(limits(gpu=1)))
    assert "IL854" not in found(pod(limits(gpu=1, memory="1Gi")))
    assert "IL854" not in found(pod(limits(gpu=1), resources={"requests": {"memory": "1Gi"}})), (
        "the pod as a whole asks"
    )
    service_of_kserve = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "s"},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "x:1", **limits(gpu=1)}]}},
    }
    assert "IL854" not in found(service_of_kserve), "KServe asks for a cpu and 2Gi"


@pytest.mark.parametrize(
    ("written", "said"), [(1, "1 GPU "), ("2", "2 GPUs "), (1.5, "1.5 GPUs "), ("0.5", "0.5 GPUs ")]
)
def test_a_number_of_gpus_is_told_as_it_is_written(written: object, said: str) -> None:
    assert f"a pod with {said}that asks" in found(pod(limits(gpu=written)))["IL854"].message


@pytest.mark.parametrize(("gpus", "rest"), [(1, 0), (2, 0), (3, 2), (4, 0), (5, 3), (6, 2), (7, 1), (8, 0)])
def test_gpus_that_do_not_tile_the_node(gpus: int, rest: int) -> None:
    fleet = examples.fleet(examples.node("a"), examples.node("b"), examples.node("cpu", gpus=0))
    finding = found(pod(limits(gpu=gpus, cpu=1, memory="1Gi")), fleet=fleet).get("IL855")
    assert (finding is not None) == (rest > 0)
    if finding is not None:
        assert f"leave {rest} of the 8" in finding.message


def test_a_kind_of_node_that_is_tiled_is_enough() -> None:
    fleet = examples.fleet(examples.node("a"), examples.node("b", gpus=6))
    assert "IL855" not in found(pod(limits(gpu=3, cpu=1, memory="1Gi")), fleet=fleet)


def jobs() -> Iterator[tuple[dict[str, Any], bool]]:
    for spec, is_found in (
        ({"backoffLimit": 1000}, True),
        ({"backoffLimit": 6}, False),
        ({}, False),
        ({"backoffLimit": 1000, "activeDeadlineSeconds": 3600}, False),
        ({"backoffLimit": 1000, "podFailurePolicy": {"rules": []}}, False),
    ):
        template = {"spec": {**pod()["spec"], "restartPolicy": "Never"}}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "j"},
            "spec": {**spec, "template": template},
        }
        yield job, is_found


@pytest.mark.parametrize(("job", "is_found"), list(jobs()))
def test_a_job_that_retries_without_end(job: dict[str, Any], is_found: bool) -> None:
    assert ("IL857" in found(job)) is is_found


def test_training_in_a_deployment_begins_again() -> None:
    training = {"command": ["torchrun", "--nproc-per-node=1", "train.py"], "args": []}
    assert found(deployment(training))["IL856"].path == "kind"
    assert "IL856" not in found(deployment({"command": ["torchrun", "--nproc-per-node=1", "serve.py"], "args": []}))
    assert "IL856" not in found(deployment())
