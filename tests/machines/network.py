"""Machines on one host: each has its own network, host name, processes, clock, disk and install.

A machine is a set of Linux namespaces that the first process in it holds. They are joined by a
switch in a namespace of its own, which has no way out, so nothing here reaches the host's network,
and nothing of the host's is changed. All of it ends with the process that made it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

NEEDED: Final = ("setpriv", "unshare", "nsenter", "ip", "mount", "nft")
SUBNET: Final = "198.51.100"
"""Of RFC 5737: for documents and tests."""
START_SECONDS: Final = 30.0
_FIRST_PROCESS: Final = """
set -eu
hostname "$1"
mkdir -p /tmp/ray
mount --bind "$3/$1" /mnt
mount -t tmpfs none "$3"
mkdir "$3/$1"
mount --move /mnt "$3/$1"
cd "$3/$1"
mount --bind etc/hosts /etc/hosts
mount --bind ray /tmp/ray
mount -t tmpfs -o size=512m none /dev/shm
ip link set lo up
while [ ! -e go ]; do sleep 0.1; done
ip address add "$2/24" dev eth0
ip link set eth0 up
trap : TERM INT
touch up
while :; do sleep 3600 & wait $!; done
"""
"""Bash, so that processes whose parents died are waited for by it."""


def missing() -> str | None:
    """Why there can be no machines here, if so."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "machines are made of network namespaces, which needs root on Linux"
    if absent := [name for name in NEEDED if shutil.which(name) is None]:
        return f"{', '.join(absent)} not installed: apt-get install iproute2 nftables util-linux"
    tried = subprocess.run(
        ["unshare", "-nmuip", "--fork", "true"], capture_output=True, text=True, check=False
    )
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


def has_compiler() -> bool:
    """Whether a machine's clock can be set, which takes a library that is compiled."""
    return shutil.which("cc") is not None


class Network:
    """A switch and what is plugged into it: a `with` block."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="machines-", dir="/tmp"))  # sockets: short paths
        self._switch: subprocess.Popen[bytes]
        self.machines: list[Machine] = []
        self.names: dict[str, str] = {}

    def __enter__(self) -> Network:
        """Make the switch."""
        self._switch = _namespaces("--net", "--fork", "--kill-child", "sleep", "infinity")
        self._in_switch("ip", "link", "add", "switch", "type", "bridge")
        self._in_switch("ip", "link", "set", "switch", "up")
        return self

    def __exit__(self, *_: object) -> None:
        """End all machines, and all that runs on them."""
        for machine in self.machines:
            machine.power_off()
        self._switch.kill()
        self._switch.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _in_switch(self, *command: str) -> None:
        _run("nsenter", f"--net=/proc/{_child(self._switch)}/ns/net", "--", *command)

    def machine(self, name: str, **settings: Any) -> Machine:
        """A machine that is not yet on; its name is known to all that are switched on later."""
        machine = Machine(self, name, f"{SUBNET}.{len(self.names) + 1}", **settings)
        self.names[name] = machine.address
        self.machines.append(machine)
        return machine

    def plug(self, machine: Machine) -> None:
        """Connect a machine that was just switched on."""
        port, pid = f"to-{machine.name}", machine.pid
        with contextlib.suppress(subprocess.CalledProcessError):  # left of one that was just killed
            self._in_switch("ip", "link", "delete", port)
        self._in_switch(
            "ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(pid)
        )  # fmt: skip
        self._in_switch("ip", "link", "set", port, "master", "switch", "up")

    def link(self, machine: Machine, state: str) -> None:
        """Disconnect or reconnect a machine: ``down``, ``up``."""
        self._in_switch("ip", "link", "set", f"to-{machine.name}", state)

    def part(self, one: Machine, other: Machine) -> None:
        """Let no packet pass between two machines, until `join`; others reach both."""
        pairs = [(one.address, other.address), (other.address, one.address)]
        rules = " ".join(f"ip saddr {a} ip daddr {b} drop;" for a, b in pairs)
        self._in_switch(
            "nft",
            "table bridge parted { chain forward { type filter hook forward priority 0; "
            f"{rules} }}; }}",
        )

    def join(self) -> None:
        """Undo `part`."""
        self._in_switch("nft", "delete table bridge parted")

    def lose(self, percent: int) -> None:
        """Drop a share of the packets that any machine sends to another one."""
        rules = (
            "table bridge loss; delete table bridge loss; table bridge loss { chain forward { "
            "type filter hook forward priority 0; "
            f"numgen random mod 100 < {percent} counter drop; }}; }}"
        )
        self._in_switch("nft", rules)

    def num_lost(self) -> int:
        """Packets lost by `lose` so far."""
        pid = _child(self._switch)
        listing = subprocess.run(
            ["nsenter", f"--net=/proc/{pid}/ns/net", "nft", "list", "table", "bridge", "loss"],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        return int(listing.split("packets ")[1].split()[0])


class Machine:
    """A host of its own.

    Args:
        network: What it is plugged into.
        name: Its host name.
        address: Its own.
        clock_seconds: How far its clock is ahead; negative where it is behind.
        ports: TCP ports that its firewall lets in; None for no firewall.
    """

    def __init__(
        self,
        network: Network,
        name: str,
        address: str,
        *,
        clock_seconds: int = 0,
        ports: str | None = None,
    ) -> None:
        self.network, self.name, self.address = network, name, address
        self.folder = network.folder / name
        self.variables: dict[str, str] = {}
        """Further ones of its users' environment."""
        self.venv = self.folder / f"opt-{name}"
        self.clock_seconds = clock_seconds
        """Counts for what is started from then on."""
        self._ports = ports
        self._holder: subprocess.Popen[bytes] | None = None
        for part in ("etc", "ray", "home", "tmp"):
            (self.folder / part).mkdir(parents=True)

    @property
    def pid(self) -> int:
        """Of the machine's first process, as the host sees it."""
        assert self._holder is not None, f"{self.name} is off"
        pid = _child(self._holder)
        assert pid is not None, f"{self.name} has no process"
        return pid

    @property
    def environment(self) -> dict[str, str]:
        """What a user who signs in there has."""
        environment = {
            "PATH": f"{self.venv}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "RAY_TMPDIR": "/tmp",  # noqa: S108 - a folder of this machine is mounted in it
            "LANG": "C.UTF-8",
            **self.variables,
        }
        if self.clock_seconds:
            library = self.folder / "clock.so"
            if not library.exists():
                source = str(Path(__file__).with_name("clock.c"))
                _run("cc", "-shared", "-fPIC", "-O2", "-o", str(library), source)
            environment |= {
                "LD_PRELOAD": str(library),
                "CLOCK_AHEAD": str(self.clock_seconds),
            }
        return environment

    def install(self, wheel: Path, packages: Sequence[Path]) -> None:
        """Install the project here, into a place that no other machine has.

        Args:
            wheel: The project's.
            packages: Folders of what it needs, as of an image that the machines were made of.
        """
        _run(sys.executable, "-m", "venv", "--without-pip", str(self.venv))
        (site,) = self.venv.glob("lib/python*/site-packages")
        _run(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
             "--no-compile", "--target", str(site), str(wheel))  # fmt: skip
        (site / "packages.pth").write_text("".join(f"{folder}\n" for folder in packages))
        for name, module in {
            "ray": "ray.scripts.scripts",
            "steel-batch": "steel_batch.cli",
        }.items():
            script = self.venv / "bin" / name
            script.write_text(
                f"#!{self.venv}/bin/python\nimport sys\nfrom {module} import main\n"
                'if __name__ == "__main__":\n    sys.exit(main())\n'
            )
            script.chmod(0o755)

    def switch_on(self) -> None:
        """Start it, with what its disk has."""
        for file in (self.folder / "go", self.folder / "up", *self.folder.glob("*.log")):
            file.unlink(missing_ok=True)
        hosts = [f"{address}\t{name}\n" for name, address in self.network.names.items()]
        (self.folder / "etc/hosts").write_text("127.0.0.1\tlocalhost\n" + "".join(hosts))
        self._holder = _namespaces(
            "--net", "--mount", "--uts", "--ipc", "--pid", "--fork", "--kill-child", "--mount-proc",
            "bash", "-c", _FIRST_PROCESS, "first", self.name, self.address,
            str(self.network.folder),
        )  # fmt: skip
        self.network.plug(self)
        (self.folder / "go").touch()
        _wait_for(lambda: (self.folder / "up").exists(), f"{self.name} to start", self._holder)
        if self._ports is not None:
            rules = (
                "table inet firewall { chain input { type filter hook input priority 0; "
                "policy drop; iif lo accept; ct state established,related accept; "
                f"tcp dport {{ {self._ports} }} accept; }}; }}"
            )
            self.run("nft", rules)

    def power_off(self) -> None:
        """Cut the power: nothing on it says goodbye to anybody."""
        if self._holder is None:
            return
        with contextlib.suppress(subprocess.CalledProcessError):
            self.network.link(self, "down")
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._holder.wait()
        self._holder = None

    def command(self, *command: str, **environment: str) -> list[str]:
        """What runs a command on it, as its user."""
        variables = [f"{k}={v}" for k, v in (self.environment | environment).items()]
        return [
            "nsenter", f"--target={self.pid}", "--net", "--mount", "--uts", "--ipc", "--pid",
            "--", "env", "-i", f"--chdir={self.folder}/home", *variables, *command,
        ]  # fmt: skip

    def run(
        self, *command: str, timeout: float = 120.0, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it to its end, which must be good."""
        done = subprocess.run(
            self.command(*command, **environment),
            capture_output=True, text=True, check=False, timeout=timeout,
        )  # fmt: skip
        assert done.returncode == 0, f"{self.name}: {command}: {done.stdout}{done.stderr}"
        return done

    def start(self, *command: str, log: str, **environment: str) -> subprocess.Popen[str]:
        """Start a command on it; it ends with the machine."""
        with (self.folder / f"{log}.log").open("a") as output:
            return subprocess.Popen(
                self.command(*command, **environment), stdout=output, stderr=subprocess.STDOUT,
                text=True,
            )  # fmt: skip

    def keep(self, *command: str, log: str) -> None:
        """Start a command, and again each time it ends, as a supervisor does."""
        again = 'while :; do "$@"; sleep 1; done'
        self.start("bash", "-c", again, "keep", *command, log=log)

    def log(self, name: str) -> str:
        """What a command has printed."""
        file = self.folder / f"{name}.log"
        return file.read_text() if file.exists() else ""


def _namespaces(*arguments: str) -> subprocess.Popen[bytes]:
    """Start a process in namespaces of its own; returns once they are there."""
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *arguments], stderr=subprocess.DEVNULL
    )
    _wait_for(lambda: _child(holder) is not None and _is_apart(holder), "namespaces", holder)
    return holder


def _is_apart(holder: subprocess.Popen[bytes]) -> bool:
    """Whether its child is in another network, and executes the command."""
    child = f"/proc/{_child(holder)}"
    try:
        name = Path(f"{child}/comm").read_text().strip()
        return name != "unshare" and (
            Path(f"{child}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        )
    except OSError:
        return False


def _child(holder: subprocess.Popen[bytes]) -> int | None:
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children").read_text().split()
    return int(children[0]) if children else None


def _wait_for(
    condition: Callable[[], bool],
    what: str,
    process: subprocess.Popen[bytes],
    seconds: float = START_SECONDS,
) -> None:
    give_up = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"waiting for {what}: it ended with {process.returncode}"
        assert time.monotonic() < give_up, f"waiting for {what} took more than {seconds:g} s"
        time.sleep(0.02)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
