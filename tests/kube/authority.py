"""An authority that the API server takes client certificates of, with any time of validity: made by openssl."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

_CONFIG = """
[ca]
default_ca = own
[own]
database = {folder}/index.txt
new_certs_dir = {folder}
rand_serial = yes
default_md = sha256
policy = any
unique_subject = no
[any]
organizationName = optional
commonName = supplied
[client]
extendedKeyUsage = clientAuth
[server]
subjectAltName = IP:127.0.0.1
extendedKeyUsage = serverAuth
"""
_CURVE = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")


@dataclass(frozen=True)
class Authority:
    """In a folder of its own."""

    folder: Path

    @property
    def file(self) -> Path:
        """Its own certificate."""
        return self.folder / "ca.pem"

    def make(self) -> None:
        self.folder.mkdir()
        (self.folder / "index.txt").touch()
        (self.folder / "ca.conf").write_text(_CONFIG.format(folder=self.folder))
        self._openssl(
            "req", "-x509", *_CURVE, "-days", "2", "-subj", "/CN=tests", "-keyout", "ca.key", "-out", "ca.pem"
        )

    def issue(
        self,
        name: str,
        *,
        group: str = "",
        begins: timedelta = timedelta(hours=-1),
        ends: timedelta = timedelta(days=1),
        is_server: bool = False,
    ) -> dict[str, str]:
        """A user of a kubeconfig, good from `begins` to `ends` from now on."""
        now = datetime.now(UTC)
        subject = f"{f'/O={group}' if group else ''}/CN={name}"
        self._openssl("req", "-new", *_CURVE, "-subj", subject, "-keyout", f"{name}.key", "-out", f"{name}.csr")
        self._openssl(
            *("ca", "-batch", "-notext", "-config", "ca.conf", "-extensions", "server" if is_server else "client"),
            *("-cert", "ca.pem", "-keyfile", "ca.key", "-in", f"{name}.csr", "-out", f"{name}.pem"),
            *("-startdate", f"{now + begins:%Y%m%d%H%M%SZ}", "-enddate", f"{now + ends:%Y%m%d%H%M%SZ}"),
        )
        return {
            "client-certificate-data": self.data(f"{name}.pem"),
            "client-key-data": self.data(f"{name}.key"),
        }

    def data(self, name: str) -> str:
        """A file as kubeconfigs and webhooks have it."""
        return b64encode((self.folder / name).read_bytes()).decode()

    def _openssl(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
