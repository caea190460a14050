"""The machines that tests of several machines are made of are what they are taken for."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machines.network import Machine, Network, has_compiler, missing

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
MAKE = """
import time
from tests.machines.network import Network

with Network() as network:
    machine = network.machine("orphan")
    machine.switch_on()
    print(machine.pid, network.folder, flush=True)
    time.sleep(600)
"""
SLEEP = """
import threading, time

started = time.monotonic()
time.sleep(0.1)
threading.Event().wait(0.1)
print(time.time(), time.monotonic() - started)
"""
ASK = "import urllib.request; urllib.request.urlopen('http://{}:{}', timeout={}).read()"


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    with Network() as network:
        yield network


@pytest.fixture(scope="module")
def machines(network: Network) -> tuple[Machine, Machine]:
    one, other = network.machine("one"), network.machine("other", ports="8001")
    for machine in (one, other):
        machine.switch_on()
    for port in ("8001", "8002"):
        other.start("/usr/bin/env", "python3", "-m", "http.server", port, log="web")
    for _ in range(100):
        if asks(one, "8001", seconds=1):
            break
        time.sleep(0.1)
    return one, other


def asks(machine: Machine, port: str, *, seconds: float = 20.0) -> bool:
    """Whether the other machine answers."""
    command = machine.command("python3", "-I", "-c", ASK.format("other", port, seconds))
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_each_machine_has_its_own_name_address_processes_and_disk(
    machines: tuple[Machine, Machine],
) -> None:
    for machine, neighbour in (machines, machines[::-1]):
        assert machine.run("hostname").stdout.strip() == machine.name
        assert machine.address in machine.run("ip", "-br", "address").stdout
        assert neighbour.address not in machine.run("ip", "-br", "address").stdout
        assert machine.run("ls", str(machine.network.folder)).stdout.split() == [machine.name]
        assert machine.run("sh", "-c", "readlink /proc/1/exe").stdout.strip().endswith("bash")


def test_no_machine_reaches_anything_but_the_others(machines: tuple[Machine, Machine]) -> None:
    one, _ = machines
    assert asks(one, "8001")
    routes = one.run("ip", "route").stdout.splitlines()
    assert [route.split()[0] for route in routes] == ["198.51.100.0/24"]


def test_a_firewall_lets_in_its_ports_alone(machines: tuple[Machine, Machine]) -> None:
    assert asks(machines[0], "8001")
    assert not asks(machines[0], "8002", seconds=1)


def test_a_cut_link_is_silent_until_it_is_mended(
    network: Network, machines: tuple[Machine, Machine]
) -> None:
    one, other = machines
    network.link(other, "down")
    assert not asks(one, "8001", seconds=1)
    network.link(other, "up")
    assert asks(one, "8001")


def test_two_machines_may_be_parted(network: Network, machines: tuple[Machine, Machine]) -> None:
    one, other = machines
    network.part(one, other)
    assert not asks(one, "8001", seconds=1)
    network.join()
    assert asks(one, "8001")


def test_lost_packets_are_sent_again(network: Network, machines: tuple[Machine, Machine]) -> None:
    network.lose(30)
    try:
        assert all(asks(machines[0], "8001", seconds=60) for _ in range(3))
        assert network.num_lost() > 0
    finally:
        network.lose(0)


@pytest.mark.skipif(not has_compiler(), reason="no C compiler")
def test_a_clock_may_be_wrong_and_waits_last_as_long_as_ever(network: Network) -> None:
    late = network.machine("ahead")
    late.clock_seconds = 30
    late.switch_on()
    told = float(late.run("python3", "-c", "import time; print(time.time())").stdout)
    assert 29 < told - time.time() < 35
    late.clock_seconds = -30
    told, slept = map(float, late.run("python3", "-c", SLEEP).stdout.split())
    assert 25 < time.time() - told < 35
    assert 0.2 < slept < 10


def test_a_machine_that_lost_its_power_comes_back_empty_of_processes(network: Network) -> None:
    machine = network.machine("spare")
    machine.switch_on()
    machine.start("sleep", "600", log="sleep")
    pid = machine.pid
    machine.power_off()
    with pytest.raises(FileNotFoundError):
        Path(f"/proc/{pid}/stat").read_text()
    machine.switch_on()
    assert "sleep 600" not in machine.run("sh", "-c", "cat /proc/*/cmdline | tr '\\0' ' '").stdout


def test_nothing_outlives_the_process_that_made_it() -> None:
    made = subprocess.Popen([sys.executable, "-c", MAKE], stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    first, folder = made.stdout.readline().split()
    assert Path(f"/proc/{first}").exists()
    made.kill()
    made.communicate()
    for _ in range(100):
        if not Path(f"/proc/{first}").exists():
            break
        time.sleep(0.05)
    shutil.rmtree(folder)
    assert not Path(f"/proc/{first}").exists()
