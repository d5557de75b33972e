"""A real node on this machine, for tests: a kubelet with containerd and runc, whose pods are containers.

Needs root, Debian's runc and network plugins (scripts/need_container_runtime), and the programs of
scripts/setup_kubernetes. What it makes is in one folder of a short name, as paths of sockets are bounded, and ends with
it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

from tests.kube.cluster import AWAY, Cluster, cache, free_ports
from tests.kube.image import program_layer, write_image
from tests.kube.names import DOMAIN, Names
from tests.kube.services import Services

PROGRAMS = ("kubelet", "containerd", "containerd-shim-runc-v2", "ctr", "pause")
PLUGINS = Path("/usr/lib/cni")
PAUSE = "ironloom.test/pause:1"
NAME = "localhost"
"""The node's name and address: the API server asks the kubelet for logs there."""
READY_WITHIN_S = 120.0
MERGE = "application/merge-patch+json"


def missing() -> str | None:
    """Why no kubelet can run here; None where one can."""
    for name in PROGRAMS:
        if not (cache() / "bin" / name).exists():
            return f"no {name}: run scripts/setup_kubernetes"
    if shutil.which("runc") is None or not (PLUGINS / "bridge").exists():
        return "no runc or no network plugins: run scripts/need_container_runtime"
    return None if os.geteuid() == 0 else "a kubelet needs root"


class RealNode:
    """Runs while it is entered."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.folder = Path(tempfile.mkdtemp(prefix="node-"))
        self._bridge = f"il{os.getpid() % 100_000:05d}"
        self._network = f"10.{64 + os.getpid() % 64}.{os.getpid() // 64 % 256}"
        self._names: Names | None = None
        self._services: Services | None = None
        self._env = {**os.environ, "PATH": f"{cache() / 'bin'}:{os.environ['PATH']}"}

    def __enter__(self) -> RealNode:
        try:
            self._make_bridge()
            self._names = Names(self.address, self._cluster)
            self._services = Services(self._cluster, self._bridge)
            self._start_containerd()
            self.load(PAUSE, program_layer(cache() / "bin" / "pause"), ["/pause"])
            self._start_kubelet()
            self.wait_ready()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.end("kubelet")
        self._cluster.end("containerd")
        self._end_shims()
        self._unmount()
        if self._names is not None:
            self._names.close()
        if self._services is not None:
            self._services.close()
        subprocess.run(["ip", "link", "delete", self._bridge], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """This machine's, as its pods see it."""
        return f"{self._network}.1"

    # --- what a test does with it ---

    def load(self, name: str, layer: bytes, entrypoint: list[str], env: dict[str, str] | None = None) -> None:
        """Have an image here under a name: nothing is pulled."""
        path = self.folder / "image.tar"
        write_image(path, [name], layer, entrypoint, env)
        self.ctr("images", "import", str(path))
        path.unlink()

    def freeze(self) -> None:
        """The kubelet says nothing any more, its containers go on."""
        self._cluster.processes["kubelet"].send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._cluster.processes["kubelet"].send_signal(signal.SIGCONT)

    def offer(self, resource: str, number: int) -> None:
        """Let the node have an extended resource, as a device plugin would:
        https://kubernetes.io/docs/tasks/administer-cluster/extended-resource-node/.
        """
        status = {"status": {"capacity": {resource: str(number)}, "allocatable": {resource: str(number)}}}
        self._cluster.request("PATCH", f"/api/v1/nodes/{NAME}/status", status, content=MERGE)

    def is_ready(self) -> bool:
        node = self._cluster.request("GET", f"/api/v1/nodes/{NAME}")
        found = {one["type"]: one["status"] for one in node.get("status", {}).get("conditions", ())}
        return found.get("Ready") == "True"

    def wait_ready(self, *, is_ready: bool = True) -> None:
        """Raises TimeoutError with what the kubelet wrote last."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            with contextlib.suppress(*AWAY):  # no such node yet
                if self.is_ready() == is_ready:
                    return
            time.sleep(0.1)
        raise TimeoutError(
            f"the node was not {'' if is_ready else 'un'}ready:\n{self._cluster.log_of('kubelet')[-3000:]}"
        )

    def ctr(self, *arguments: str) -> str:
        """Raises subprocess.CalledProcessError."""
        socket = str(self.folder / "c.sock")
        done = subprocess.run(
            [cache() / "bin" / "ctr", "--address", socket, "--namespace", "k8s.io", *arguments],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.stdout

    # --- parts ---

    def _make_bridge(self) -> None:
        """As the plugin would at the first pod: names are answered on its address before."""
        for words in (
            # With an address of its own: otherwise it takes the lowest of its ports', and pods that were there before
            # a port with a lower one came ask for it under the old.
            ("link", "add", self._bridge, "address", f"02:{os.urandom(5).hex(':')}", "type", "bridge"),
            ("addr", "add", f"{self.address}/24", "dev", self._bridge),
            ("link", "set", self._bridge, "up"),
        ):
            subprocess.run(["ip", *words], check=True, capture_output=True)

    def _start_containerd(self) -> None:
        network = self.folder / "net"
        network.mkdir()
        plugin: dict[str, Any] = {
            "type": "bridge",
            "bridge": self._bridge,
            "isGateway": True,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "dataDir": str(self.folder / "addresses"),
                "ranges": [[{"subnet": f"{self._network}.0/24", "gateway": self.address}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        conflist = {"cniVersion": "1.0.0", "name": "test", "plugins": [plugin, {"type": "loopback"}]}
        (network / "10-test.conflist").write_text(json.dumps(conflist))
        config = self.folder / "containerd.toml"
        config.write_text(
            CONTAINERD.format(folder=self.folder, pause=PAUSE, plugins=PLUGINS, runc=shutil.which("runc"))
        )
        self._cluster.begin("containerd", "--config", str(config), env=self._env)
        deadline = time.monotonic() + 60
        while True:
            try:
                self.ctr("version")
                return
            except subprocess.CalledProcessError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(
                        f"containerd did not start:\n{self._cluster.log_of('containerd')[-3000:]}"
                    ) from error
                time.sleep(0.1)

    def _start_kubelet(self) -> None:
        port, health_port = free_ports(2)
        config = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": "127.0.0.1",
            "port": port,
            "healthzPort": health_port,
            "containerRuntimeEndpoint": f"unix://{self.folder / 'c.sock'}",
            "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
            "authorization": {"mode": "AlwaysAllow"},
            "failCgroupV1": False,
            "cgroupDriver": "cgroupfs",
            "cgroupsPerQOS": False,
            "enforceNodeAllocatable": [],
            "failSwapOn": False,
            "localStorageCapacityIsolation": False,
            "clusterDNS": [self.address],
            "clusterDomain": DOMAIN,
            "makeIPTablesUtilChains": False,
            "nodeLeaseDurationSeconds": 8,
            "nodeStatusUpdateFrequency": "2s",
            "podLogsDir": str(self.folder / "logs"),
            "volumePluginDir": str(self.folder / "volume-plugins"),
            "evictionHard": {"memory.available": "1Mi"},
            "imageGCHighThresholdPercent": 100,
        }
        path = self.folder / "kubelet.json"
        path.write_text(json.dumps(config))
        self._cluster.begin(
            "kubelet",
            *("--config", str(path), "--kubeconfig", str(self._cluster.kubeconfig), "--hostname-override", NAME),
            *("--root-dir", str(self.folder / "kubelet"), "--cert-dir", str(self.folder / "certs")),
            env=self._env,
        )

    def _end_shims(self) -> None:
        """Shims outlive containerd, and with them what they run."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # one that has ended meanwhile
                if str(self.folder / "c.sock").encode() in (process / "cmdline").read_bytes().split(b"\0"):
                    children = [(one / "children").read_text().split() for one in (process / "task").iterdir()]
                    for number in [*map(int, chain(*children)), int(process.name)]:
                        os.kill(number, signal.SIGKILL)

    def _unmount(self) -> None:
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            mounted = line.split()[1]
            if mounted.startswith(f"{self.folder}/"):
                subprocess.run(["umount", "--lazy", mounted], capture_output=True, check=False)


CONTAINERD = """\
version = 3
root = "{folder}/root"
state = "{folder}/state"
[grpc]
address = "{folder}/c.sock"
[ttrpc]
address = "{folder}/t.sock"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "{runc}"
SystemdCgroup = false
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["{plugins}"]
conf_dir = "{folder}/net"
"""
"""Without the kernel's right to change them freely, scores of the out-of-memory killer are restricted."""
