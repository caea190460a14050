"""Ceph's S3 gateway on this machine: one monitor, one storage daemon in memory, one gateway.

Each is a child of this process and ends with it. Debian's packages `radosgw`, `ceph-mon`,
`ceph-osd` and `ceph-common` have the programs.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = (
    "ceph", "ceph-authtool", "ceph-mon", "ceph-osd", "monmaptool", "radosgw", "radosgw-admin",
)  # fmt: skip
START_SECONDS = 180.0
GIB = 1 << 30


def missing_programs() -> list[str]:
    return [name for name in PROGRAMS if shutil.which(name) is None]


@contextmanager
def ceph_gateway(folder: Path, *, keys: tuple[str, str]) -> Iterator[str]:
    """The gateway's URL, once it answers to a user with these keys, access and secret."""
    access_key, secret_key = keys
    give_up = time.monotonic() + START_SECONDS
    port, monitor_port = _free_ports(2)
    monitor = f"v2:127.0.0.1:{monitor_port}"
    settings = folder / "ceph.conf"
    settings.write_text(_settings(folder, monitor, port))
    for name in ("mon", "osd", "rgw", "run"):
        (folder / name).mkdir()
    keyring, monmap = folder / "keyring", folder / "monmap"
    for name, rights in (("mon.", ["mon"]), ("client.admin", ["mon", "osd", "mgr"])):
        caps = [word for right in rights for word in ("--cap", right, "allow *")]
        create = [] if keyring.exists() else ["--create-keyring"]
        _run("ceph-authtool", keyring, *create, "--gen-key", "-n", name, *caps)
    _run("monmaptool", "--create", "--addv", "a", f"[{monitor}]", "--fsid", _fsid(folder), monmap)
    with ExitStack() as daemons:

        def start(program: str, *arguments: object) -> None:
            log = daemons.enter_context((folder / f"{program}.log").open("wb"))
            command = [program, "-f", "-c", str(settings), *map(str, arguments)]
            process = subprocess.Popen(command, stdout=log, stderr=log)
            daemons.callback(process.wait)
            daemons.callback(process.kill)

        _run("ceph-mon", "-c", settings, "-i", "a", "--mkfs", "--monmap", monmap, "--keyring",
             keyring)  # fmt: skip
        start("ceph-mon", "-i", "a")
        osd = str(uuid.uuid4())
        _retried(give_up, "ceph", "-c", settings, "--connect-timeout", 10, "osd", "new", osd)
        _run("ceph-osd", "-c", settings, "-i", "0", "--mkfs", "--osd-uuid", osd)
        start("ceph-osd", "-i", "0")
        _retried(give_up, "ceph", "-c", settings, "osd", "crush", "add", "osd.0", "1.0",
                 "root=default", "host=here")  # fmt: skip
        start("radosgw", "-n", "client.rgw.a")
        _retried(give_up, "radosgw-admin", "-c", settings, "user", "create", "--uid=tests",
                 "--display-name=tests", f"--access-key={access_key}",
                 f"--secret-key={secret_key}")  # fmt: skip
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, give_up)
        yield url


def _settings(folder: Path, monitor: str, port: int) -> str:
    everyone = {
        "fsid": _fsid(folder),
        "mon host": f"[{monitor}]",
        "public addr": "127.0.0.1",
        "ms bind ipv6": "false",
        "auth cluster required": "none",
        "auth service required": "none",
        "auth client required": "none",
        "keyring": folder / "keyring",
        "run dir": folder / "run",
        "admin socket": folder / "run" / "$name.asok",
        "pid file": "",
        "log file": folder / "$name.log",
        "crash dir": folder,
        "osd pool default size": 1,
        "osd pool default min size": 1,
        "osd pool default pg num": 2,
        "osd pool default pgp num": 2,
        "osd pool default pg autoscale mode": "off",
        "osd crush chooseleaf type": 0,
        "mon allow pool size one": "true",
        "mon max pg per osd": 1000,
    }
    sections: dict[str, dict[str, object]] = {
        "global": everyone,
        "mon.a": {"mon data": folder / "mon"},
        "osd.0": {
            "osd data": folder / "osd",
            "osd objectstore": "memstore",
            "memstore device bytes": GIB,
            "osd memory target": GIB - (100 << 20),
        },
        "client.rgw.a": {
            # The gateway asks for encryption where nothing is said, which needs authentication.
            "ms mon client mode": "crc",
            "auth client required": "none",
            "rgw data": folder / "rgw",
            "rgw frontends": f"beast endpoint=127.0.0.1:{port}",
            "rgw dns name": "localhost",
        },
    }
    return "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {value}\n" for key, value in values.items())
        for name, values in sections.items()
    )


def _fsid(folder: Path) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, folder.as_uri()))


def _free_ports(num: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(num)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _run(*command: object) -> None:
    subprocess.run([str(word) for word in command], check=True, capture_output=True, timeout=120)


def _retried(give_up: float, *command: object) -> None:
    """Until the daemons that it asks are up."""
    while True:
        try:
            _run(*command)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            if time.monotonic() > give_up:
                raise
            time.sleep(0.5)
        else:
            return


def _wait_for(url: str, give_up: float) -> None:
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()  # noqa: S310 - our own gateway
        except OSError:
            if time.monotonic() > give_up:
                raise
            time.sleep(0.2)
        else:
            return
