"""Instance types of clouds that carry GPUs: what a node of one has, and its list price.

Prices are on demand, of one instance, without discounts; each has its date, and they drift within weeks. A type whose
price is by quotation has None. Memory is the machine's; what pods may use of it is less by what the kubelet and the
system keep.
"""

from __future__ import annotations

import msgspec

from ironloom.units import GB, GIB, KIB


class InstanceType(msgspec.Struct, frozen=True, kw_only=True):
    """One instance type."""

    name: str
    """As the label node.kubernetes.io/instance-type has it."""
    provider: str
    """coreweave, aws, gcp, oci."""
    accelerator: str
    """Name in catalog.accelerators."""
    num_gpus: int
    num_cpus: int
    """Virtual ones: hardware threads."""
    memory_bytes: int | None
    """None where sources disagree."""
    network: str = ""
    """infiniband, roce, efa, gpudirect-tcpx, gpudirect-tcpxo, ethernet; empty where not known."""
    gbit_per_s: float | None = None
    """Of that network, the whole node, one direction."""
    max_pods: int | None = None
    ephemeral_storage_bytes: int | None = None
    nvlink_domain_nodes: int = 1
    """Nodes that share one NVLink domain: 18 for NVL72."""
    usd_per_hour: float | None = None
    spot_usd_per_hour: float | None = None
    price_date: str = ""
    price_source: str = ""
    source: str
    date: str
    """When the source was read."""

    @property
    def usd_per_gpu_hour(self) -> float | None:
        return self.usd_per_hour / self.num_gpus if self.usd_per_hour is not None and self.num_gpus else None


_READ = "2026-11-24"
_CW = "https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/cloudprovider/coreweave/coreweave_instance_types.go"
_CW_DOCS = "https://docs.coreweave.com/products/instances"
_CW_PRICES = "https://www.coreweave.com/pricing"
_AWS = "https://karpenter.sh/v1.14/reference/instance-types/"
_AWS_PRICES = (
    "https://github.com/aws/karpenter-provider-aws/blob/main/pkg/providers/pricing/zz_generated.pricing_aws.go"
)
_GCP = "https://cloud.google.com/compute/docs/accelerator-optimized-machines"
_GCP_PRICES = (
    "https://github.com/kubernetes/autoscaler/blob/master/cluster-autoscaler/cloudprovider/gce/gce_price_info.go"
)
_OCI = "https://docs.oracle.com/iaas/Content/Compute/References/computeshapes.htm"
_OCI_PRICES = "https://www.oracle.com/cloud/compute/pricing/"


def _coreweave(
    name: str,
    accelerator: str,
    num_gpus: int,
    num_cpus: int,
    memory_bytes: int,
    storage_bytes: int | None,
    *,
    network: str = "infiniband",
    gbit_per_s: float | None = None,
    usd: float | None = None,
    spot: float | None = None,
    domain: int = 1,
    source: str = _CW,
) -> InstanceType:
    return InstanceType(
        name=name,
        provider="coreweave",
        accelerator=accelerator,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        memory_bytes=memory_bytes,
        network=network,
        gbit_per_s=gbit_per_s,
        max_pods=110,
        ephemeral_storage_bytes=storage_bytes,
        nvlink_domain_nodes=domain,
        usd_per_hour=usd,
        spot_usd_per_hour=spot,
        price_date="2026-10-04" if usd is not None or spot is not None else "",
        price_source=_CW_PRICES if usd is not None or spot is not None else "",
        source=source,
        date=_READ,
    )


_BIG, _SMALL = 30_003_181_568 * KIB, 7_499_362_648 * KIB
_COREWEAVE = (
    _coreweave(
        "gd-8xa100-i128", "A100-SXM4-80GB", 8, 128, 2_112_249_840 * KIB, _SMALL, network="", usd=21.6, spot=9.65
    ),
    _coreweave(
        "gd-8xh100ib-i128", "H100-SXM5-80GB", 8, 128, 2_112_109_804 * KIB, _BIG, gbit_per_s=3200, usd=49.24, spot=19.71
    ),
    _coreweave(
        "gd-8xh200ib-i128", "H200-SXM5-141GB", 8, 128, 2_112_109_800 * KIB, _BIG, gbit_per_s=3200, usd=50.44, spot=20.93
    ),
    _coreweave("b200-8x", "B200-SXM6-180GB", 8, 128, 2_112_277_172 * KIB, _BIG, gbit_per_s=3200, usd=68.8, spot=34.11),
    _coreweave("b300-8x", "B300-SXM6-270GB", 8, 192, 4096 * GB, None, spot=35.84, source=_CW_DOCS),
    _coreweave("gb200-4x", "GB200-186GB", 4, 144, 960 * GB, None, usd=42.0, domain=18, source=_CW_DOCS),
    _coreweave("gb300-4x", "GB300-279GB", 4, 144, 960 * GB, None, domain=18, source=_CW_DOCS),
    _coreweave("gb300-4x-e", "GB300-279GB", 4, 144, 960 * GB, None, network="roce", domain=18, source=_CW_DOCS),
    _coreweave("gd-1xgh200", "GH200-96GB", 1, 72, 600_218_240 * KIB, _SMALL, network="", usd=6.5),
    _coreweave("gd-8xl40-i128", "L40-48GB", 8, 128, 1_055_335_508 * KIB, _SMALL, network="ethernet", usd=10.0),
    _coreweave("gd-8xl40s-i128", "L40S-48GB", 8, 128, 1_055_337_468 * KIB, _SMALL, network="ethernet", usd=18.0),
    _coreweave("rtxp6000-8x", "RTX-PRO-6000-96GB", 8, 128, 1_055_335_468 * KIB, _BIG, network="ethernet", usd=20.0),
)


def _aws(
    name: str,
    accelerator: str,
    num_gpus: int,
    num_cpus: int,
    memory_gib: int,
    gbit_per_s: float,
    max_pods: int,
    usd: float | None,
    *,
    efa: bool = False,
) -> InstanceType:
    return InstanceType(
        name=name,
        provider="aws",
        accelerator=accelerator,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        memory_bytes=memory_gib * GIB,
        network="efa" if efa else "ethernet",
        gbit_per_s=gbit_per_s,
        max_pods=max_pods,
        usd_per_hour=usd,
        price_date="2026-07-20" if usd is not None else "",
        price_source=_AWS_PRICES if usd is not None else "",
        source=_AWS,
        date=_READ,
    )


_T4, _A10G, _L4, _L40S, _PRO = "T4-16GB", "A10G-24GB", "L4-24GB", "L40S-48GB", "RTX-PRO-6000-96GB"
_EC2 = (
    _aws("p3dn.24xlarge", "V100-SXM2-32GB", 8, 96, 768, 100, 737, None, efa=True),
    _aws("p4d.24xlarge", "A100-SXM4-40GB", 8, 96, 1152, 400, 737, 21.957642, efa=True),
    _aws("p4de.24xlarge", "A100-SXM4-80GB", 8, 96, 1152, 400, 737, 27.44705, efa=True),
    _aws("p5.4xlarge", "H100-SXM5-80GB", 1, 16, 256, 100, 118, 6.88, efa=True),
    _aws("p5.48xlarge", "H100-SXM5-80GB", 8, 192, 2048, 3200, 100, 55.04, efa=True),
    _aws("p5e.48xlarge", "H200-SXM5-141GB", 8, 192, 2048, 3200, 100, None, efa=True),
    _aws("p5en.48xlarge", "H200-SXM5-141GB", 8, 192, 2048, 3200, 198, 63.296, efa=True),
    _aws("p6-b200.48xlarge", "B200-SXM6-180GB", 8, 192, 2048, 3200, 198, 113.9328, efa=True),
    _aws("p6-b300.48xlarge", "B300-SXM6-270GB", 8, 192, 4096, 6400, 198, 142.416, efa=True),
    _aws("g4dn.xlarge", _T4, 1, 4, 16, 5, 29, 0.526),
    _aws("g4dn.2xlarge", _T4, 1, 8, 32, 10, 29, 0.752),
    _aws("g4dn.4xlarge", _T4, 1, 16, 64, 20, 29, 1.204),
    _aws("g4dn.8xlarge", _T4, 1, 32, 128, 50, 58, 2.176, efa=True),
    _aws("g4dn.12xlarge", _T4, 4, 48, 192, 50, 234, 3.912, efa=True),
    _aws("g4dn.16xlarge", _T4, 1, 64, 256, 50, 58, 4.352, efa=True),
    _aws("g4dn.metal", _T4, 8, 96, 384, 100, 737, 7.824, efa=True),
    _aws("g5.xlarge", _A10G, 1, 4, 16, 2.5, 58, 1.006),
    _aws("g5.2xlarge", _A10G, 1, 8, 32, 5, 58, 1.212),
    _aws("g5.4xlarge", _A10G, 1, 16, 64, 10, 234, 1.624),
    _aws("g5.8xlarge", _A10G, 1, 32, 128, 25, 234, 2.448, efa=True),
    _aws("g5.12xlarge", _A10G, 4, 48, 192, 40, 737, 5.672, efa=True),
    _aws("g5.16xlarge", _A10G, 1, 64, 256, 25, 234, 4.096, efa=True),
    _aws("g5.24xlarge", _A10G, 4, 96, 384, 50, 737, 8.144, efa=True),
    _aws("g5.48xlarge", _A10G, 8, 192, 768, 100, 345, 16.288, efa=True),
    _aws("g6.xlarge", _L4, 1, 4, 16, 2.5, 58, 0.8048),
    _aws("g6.2xlarge", _L4, 1, 8, 32, 5, 58, 0.9776),
    _aws("g6.4xlarge", _L4, 1, 16, 64, 10, 234, 1.3232),
    _aws("g6.8xlarge", _L4, 1, 32, 128, 25, 234, 2.0144, efa=True),
    _aws("g6.12xlarge", _L4, 4, 48, 192, 40, 234, 4.6016, efa=True),
    _aws("g6.16xlarge", _L4, 1, 64, 256, 25, 737, 3.3968, efa=True),
    _aws("g6.24xlarge", _L4, 4, 96, 384, 50, 737, 6.6752, efa=True),
    _aws("g6.48xlarge", _L4, 8, 192, 768, 100, 737, 13.3504, efa=True),
    _aws("g6e.xlarge", _L40S, 1, 4, 32, 2.5, 58, 1.861),
    _aws("g6e.2xlarge", _L40S, 1, 8, 64, 5, 58, 2.24208),
    _aws("g6e.4xlarge", _L40S, 1, 16, 128, 20, 234, 3.00424),
    _aws("g6e.8xlarge", _L40S, 1, 32, 256, 25, 234, 4.52856, efa=True),
    _aws("g6e.12xlarge", _L40S, 4, 48, 384, 100, 292, 10.49264, efa=True),
    _aws("g6e.16xlarge", _L40S, 1, 64, 512, 35, 737, 7.57719, efa=True),
    _aws("g6e.24xlarge", _L40S, 4, 96, 768, 200, 492, 15.06559, efa=True),
    _aws("g6e.48xlarge", _L40S, 8, 192, 1536, 400, 492, 30.13118, efa=True),
    _aws("g7e.2xlarge", _PRO, 1, 8, 64, 50, 254, 3.36312),
    _aws("g7e.4xlarge", _PRO, 1, 16, 128, 50, 506, 3.99816),
    _aws("g7e.8xlarge", _PRO, 1, 32, 256, 100, 506, 5.26824, efa=True),
    _aws("g7e.12xlarge", _PRO, 2, 48, 512, 400, 632, 8.28608, efa=True),
    _aws("g7e.24xlarge", _PRO, 4, 96, 1024, 800, 632, 16.57216, efa=True),
    _aws("g7e.48xlarge", _PRO, 8, 192, 2048, 1600, 632, 33.14432, efa=True),
)


def _gcp(
    name: str,
    accelerator: str,
    num_gpus: int,
    num_cpus: int,
    memory_gb: int,
    usd: float | None = None,
    *,
    network: str = "ethernet",
    domain: int = 1,
) -> InstanceType:
    return InstanceType(
        name=name,
        provider="gcp",
        accelerator=accelerator,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        memory_bytes=memory_gb * GIB,
        network=network,
        nvlink_domain_nodes=domain,
        usd_per_hour=usd,
        price_date="2026-08-22" if usd is not None else "",
        price_source=_GCP_PRICES if usd is not None else "",
        source=_GCP,
        date=_READ,
    )


_A40, _A80, _H100 = "A100-SXM4-40GB", "A100-SXM4-80GB", "H100-SXM5-80GB"
_GCE = (
    _gcp("a2-highgpu-1g", _A40, 1, 12, 85, 3.673385),
    _gcp("a2-highgpu-2g", _A40, 2, 24, 170, 7.34677),
    _gcp("a2-highgpu-4g", _A40, 4, 48, 340, 14.69354),
    _gcp("a2-highgpu-8g", _A40, 8, 96, 680, 29.38708),
    _gcp("a2-megagpu-16g", _A40, 16, 96, 1360, 55.739504),
    _gcp("a2-ultragpu-1g", _A80, 1, 12, 170, 5.0688),
    _gcp("a2-ultragpu-2g", _A80, 2, 24, 340, 10.1376),
    _gcp("a2-ultragpu-4g", _A80, 4, 48, 680, 20.2752),
    _gcp("a2-ultragpu-8g", _A80, 8, 96, 1360, 40.5504),
    _gcp("a3-highgpu-1g", _H100, 1, 26, 234, network="gpudirect-tcpx"),
    _gcp("a3-highgpu-2g", _H100, 2, 52, 468, network="gpudirect-tcpx"),
    _gcp("a3-highgpu-4g", _H100, 4, 104, 936, network="gpudirect-tcpx"),
    _gcp("a3-highgpu-8g", _H100, 8, 208, 1872, network="gpudirect-tcpx"),
    _gcp("a3-edgegpu-8g", _H100, 8, 208, 1872, network="gpudirect-tcpx"),
    _gcp("a3-megagpu-8g", _H100, 8, 208, 1872, network="gpudirect-tcpxo"),
    _gcp("a3-ultragpu-8g", "H200-SXM5-141GB", 8, 224, 2952, network="roce"),
    _gcp("a4-highgpu-8g", "B200-SXM6-180GB", 8, 224, 3968, network="roce"),
    _gcp("a4x-highgpu-4g", "GB200-186GB", 4, 140, 884, network="roce", domain=18),
    _gcp("g2-standard-4", _L4, 1, 4, 16, 0.76),
    _gcp("g2-standard-8", _L4, 1, 8, 32, 0.91),
    _gcp("g2-standard-12", _L4, 1, 12, 48, 1.06),
    _gcp("g2-standard-16", _L4, 1, 16, 64, 1.2),
    _gcp("g2-standard-24", _L4, 2, 24, 96, 2.11),
    _gcp("g2-standard-32", _L4, 1, 32, 128, 1.79),
    _gcp("g2-standard-48", _L4, 4, 48, 192, 4.23),
    _gcp("g2-standard-96", _L4, 8, 96, 384, 8.46),
    _gcp("g4-standard-48", _PRO, 1, 48, 180),
    _gcp("g4-standard-96", _PRO, 2, 96, 360),
    _gcp("g4-standard-192", _PRO, 4, 192, 720),
    _gcp("g4-standard-384", _PRO, 8, 384, 1440),
)


def _oci(
    name: str,
    accelerator: str,
    num_gpus: int,
    num_cpus: int,
    memory_gb: int | None,
    usd: float | None,
    *,
    network: str = "roce",
    domain: int = 1,
) -> InstanceType:
    return InstanceType(
        name=name,
        provider="oci",
        accelerator=accelerator,
        num_gpus=num_gpus,
        num_cpus=num_cpus,
        memory_bytes=memory_gb * GIB if memory_gb is not None else None,
        network=network,
        nvlink_domain_nodes=domain,
        usd_per_hour=usd,
        price_date="2026-04-14" if usd is not None else "",
        price_source=_OCI_PRICES if usd is not None else "",
        source=_OCI,
        date=_READ,
    )


_ORACLE = (
    _oci("BM.GPU4.8", _A40, 8, 128, 2048, 24.4),
    _oci("BM.GPU.A100-v2.8", _A80, 8, 256, 2048, 32.0),
    _oci("BM.GPU.A10.4", "A10-24GB", 4, 128, 1024, 8.0, network="ethernet"),
    _oci("BM.GPU.L40S.4", _L40S, 4, 224, 1024, 14.0),
    _oci("BM.GPU.H100.8", _H100, 8, 224, 2048, 80.0),
    _oci("BM.GPU.H200.8", "H200-SXM5-141GB", 8, 224, 3072, 80.0),
    _oci("BM.GPU.B200.8", "B200-SXM6-180GB", 8, 256, None, 112.0),
    _oci("BM.GPU.GB200.4", "GB200-186GB", 4, 144, 960, 64.0, domain=18),
    _oci("BM.GPU.MI300X.8", "MI300X-192GB", 8, 224, 2048, 48.0),
)

INSTANCES: dict[str, InstanceType] = {one.name: one for one in (*_COREWEAVE, *_EC2, *_GCE, *_ORACLE)}


def find(name: str) -> InstanceType | None:
    """The instance type of that name, as the node's label has it; None where it is not in the catalogue."""
    return INSTANCES.get(name)
