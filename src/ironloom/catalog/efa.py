"""How many EFA devices the instance types of AWS have, as the device plugin counts them in vpc.amazonaws.com/efa.

One device a network card that can carry it. Types whose number is not in a source are not here.

Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-eni.html#network-cards
"""

from __future__ import annotations

from collections.abc import Mapping

RESOURCE = "vpc.amazonaws.com/efa"
DEVICES: Mapping[str, int] = {
    "p3dn.24xlarge": 1,
    "p4d.24xlarge": 4,
    "p4de.24xlarge": 4,
    "p5.48xlarge": 32,
    "p5e.48xlarge": 32,
    "p5en.48xlarge": 16,
    "p6-b200.48xlarge": 8,
    "p6-b300.48xlarge": 16,
}
