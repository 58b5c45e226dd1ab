"""What a cloud gives to cloud-init on a machine that QEMU emulates: who may log in, and the machine's host key.

A profile names its cloud. In the directory of the boot::

    user-data, meta-data, seed.img    nocloud: a second disk, named CIDATA (cloud-init's data source NoCloud)
    imds/                             ec2: what AWS's instance metadata service answers, by path; a listing is .index
    imds/serve                        answers one request: version 2 of that service, which wants a token
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pgbake.image.workshop import BENCH, Workshop
from pgbake.machine.image import CloudName

_INSTANCE = "i-pgbakeverify"
_HOST = "verify"
#: Of QEMU's first network card.
_MAC = "52:54:00:12:34:56"


class Cloud(ABC):
    """A cloud, as far as a machine sees it.

    ``id`` is what the machine's ``cloud-id`` says, ``words`` are QEMU's options for it, ``network`` is what it adds to
    those of QEMU's user network, and ``absent`` what a kernel is told where the cloud is not.
    """

    id: str

    words: tuple[str, ...] = ()
    network: str = ""
    absent: str = ""

    @abstractmethod
    def lay_out(self, tools: Workshop, bench: Path, user_data: Mapping[str, Any]) -> None:
        """Write what the machine will be given.

        :param tools: the emulator's programs.
        :param bench: the directory of the boot.
        :param user_data: cloud-init's cloud-config.
        """


class NoCloud(Cloud):
    """A cloud, or a machine of one's own, that gives data on a disk."""

    id = "nocloud"
    words = ("-drive", "file=seed.img,format=raw,if=virtio,readonly=on")

    def lay_out(self, tools: Workshop, bench: Path, user_data: Mapping[str, Any]) -> None:
        """Write the disk; see :meth:`Cloud.lay_out`."""
        (bench / "user-data").write_text(_cloud_config(user_data))
        (bench / "meta-data").write_text(f"instance-id: {_INSTANCE}\nlocal-hostname: {_HOST}\n")
        for command in (
            ["truncate", "-s", "1M", "seed.img"],
            ["mkfs.vfat", "-n", "CIDATA", "seed.img"],
            ["mcopy", "-i", "seed.img", "user-data", "meta-data", "::"],
        ):
            tools.run(command, bench)


class Ec2(Cloud):
    """AWS: its service at 169.254.169.254 (EC2 User Guide, instance metadata), and a UUID that begins with ec2."""

    id = "aws"
    _ADDRESS = "169.254.0.15"
    _UUID = "ec2b3a5e-1c2d-4e5f-8a9b-0c1d2e3f4a5b"
    absent = "cloud-init=disabled"
    words = ("-uuid", _UUID, "-smbios", f"type=1,manufacturer=Amazon EC2,uuid={_UUID},serial={_UUID}")
    network = (
        f",net=169.254.0.0/16,host=169.254.0.2,dns=169.254.0.3,dhcpstart={_ADDRESS}"
        f",guestfwd=tcp:169.254.169.254:80-cmd:/bin/bash {BENCH}/imds/serve"
    )

    def lay_out(self, tools: Workshop, bench: Path, user_data: Mapping[str, Any]) -> None:
        """Write the service and its answers; see :meth:`Cloud.lay_out`."""
        top = bench / "imds"
        card = {
            "device-number": "0", "interface-id": "eni-pgbakeverify", "local-ipv4s": self._ADDRESS, "mac": _MAC,
            "subnet-ipv4-cidr-block": "169.254.0.0/16",
        }  # fmt: skip
        answers = {
            "user-data": _cloud_config(user_data),
            "meta-data": {
                "ami-id": "ami-pgbakeverify", "hostname": _HOST, "instance-id": _INSTANCE, "instance-type": "t3.medium",
                "local-hostname": _HOST, "local-ipv4": self._ADDRESS, "mac": _MAC,
                "network": {"interfaces": {"macs": {_MAC: card}}},
                "placement": {"availability-zone": "local-1a", "region": "local-1"},
            },
            "dynamic": {"instance-identity": {"document": json.dumps({"instanceId": _INSTANCE, "region": "local-1"})}},
        }  # fmt: skip
        _write_answers(top, answers)
        (top / "serve").write_text(_SERVE)


#: The clouds that a profile may name.
CLOUDS: Mapping[CloudName, type[Cloud]] = {"nocloud": NoCloud, "ec2": Ec2}


def _cloud_config(user_data: Mapping[str, Any]) -> str:
    return "#cloud-config\n" + json.dumps(user_data)


def _write_answers(place: Path, answer: str | Mapping[str, Any]) -> None:
    if isinstance(answer, str):
        place.write_text(answer)
        return
    place.mkdir(exist_ok=True)
    (place / ".index").write_text("\n".join(f"{name}{'' if isinstance(answer[name], str) else '/'}" for name in answer))
    for name, below in answer.items():
        _write_answers(place / name, below)


#: Paths begin with a version, whichever. QEMU starts one for each connection, with that as its input and output.
_SERVE = r"""
read -r method path _
while IFS= read -r line && [ "${line%$'\r'}" ]; do
  case ${line,,} in "x-aws-ec2-metadata-token: pgbake"*) token=given ;; esac
done
answer() {
  printf 'HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %s\r\nConnection: close\r\n\r\n' "$1" "$2"
}
file=${0%/*}/${path#/*/}
if [ -d "$file" ]; then file=${file%/}/.index; fi
case $method-$path-$token in
  PUT-/latest/api/token-*) answer "200 OK" 6; printf pgbake ;;
  GET-*-given)
    if [ -f "$file" ]; then answer "200 OK" "$(stat -c %s "$file")"; cat "$file"; else answer "404 Not Found" 0; fi ;;
  GET-*) answer "401 Unauthorized" 0 ;;
  *) answer "405 Method Not Allowed" 0 ;;
esac
"""
