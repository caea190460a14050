"""One night on several machines: whatever happens to them, the rows are those of a quiet night.

Each machine is a set of namespaces of this host with an address, a clock, a disk and an install of
its own (`tests.machines.network`). The command is submitted from a machine that is no node.
"""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests.conftest import DATE
from tests.machines.network import Machine, has_compiler, missing
from tests.machines.site import (
    NUM_IMAGES,
    S3,
    Rows,
    Site,
    end_of,
    is_up,
    num_starts_of,
    site,
    site_of,
    wait_until,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.ray,
    pytest.mark.s3,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.skipif(
        importlib.util.find_spec("aiohttp_cors") is None,
        reason="the jobs server comes with ray[default]: pip install -e '.[cluster]'",
    ),
]
CUT_SECONDS = 30
DETECTION_SECONDS = 90
"""Ray has given up a node without power by then."""


@pytest.fixture(scope="module")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with site(tmp_path_factory.mktemp("plant")) as made:
        yield made


@pytest.fixture(scope="module")
def undisturbed(plant: Site) -> Rows:
    """The rows that one machine makes by itself, without a cluster."""
    command = plant.score_command("alone", decoder="steel_batch.images.decode:decode_gray")
    plant.client.run("steel-batch", *command, timeout=300)
    return plant.rows("alone")


def _check(plant: Site, store: str, job: subprocess.Popen[str], undisturbed: Rows) -> str:
    code, text = end_of(job)
    assert code == 0, text
    assert "Traceback" not in text
    assert "StackTrace" not in text
    rows = plant.rows(store)
    assert len(rows["predictions"]) == NUM_IMAGES
    assert rows == undisturbed
    return text


def test_a_night_submitted_from_outside_has_the_rows_of_one_machine(
    plant: Site, undisturbed: Rows
) -> None:
    job = plant.submit(*plant.score_command("quiet"))
    _check(plant, "quiet", job, undisturbed)


def test_doctor_finds_every_node_ready(plant: Site) -> None:
    """The shipped engine too, which lies in another folder on each of them."""
    command = ["doctor", "--ray-address", "auto", "--store", "s3://lake/doctor", "--images",
               "s3://lake/images", "--endpoint-url", S3, "--engine", "demo"]  # fmt: skip
    for _ in range(3):  # on a busy machine a node may take longer than doctor waits
        code, text = end_of(plant.submit(*command))
        if "did not answer within" not in text:
            break
    assert code == 0, text
    for machine in (plant.head, *plant.workers):
        assert f"node {machine.name}\n" in text
    assert "wrong" not in text


def test_a_link_that_is_cut_for_half_a_minute_costs_no_row(plant: Site, undisturbed: Rows) -> None:
    job = plant.submit(*plant.score_command("cut"))
    plant.wait_for_receipts("cut", 6, job)
    plant.network.link(plant.workers[0], "down")
    time.sleep(CUT_SECONDS)
    assert job.poll() is None, job.communicate()[0]
    plant.network.link(plant.workers[0], "up")
    _check(plant, "cut", job, undisturbed)


def test_a_worker_that_only_the_head_lost_costs_no_row(plant: Site, undisturbed: Rows) -> None:
    """It reaches the store and scores on, while its shards are given to the other one."""
    job = plant.submit(*plant.score_command("parted"))
    plant.wait_for_receipts("parted", 6, job)
    plant.network.part(plant.workers[0], plant.head)
    try:
        time.sleep(2 * CUT_SECONDS)
    finally:
        plant.network.join()
    _check(plant, "parted", job, undisturbed)


def test_five_percent_of_packets_lost_cost_no_row(plant: Site, undisturbed: Rows) -> None:
    job = plant.submit(*plant.score_command("loss"))
    plant.wait_for_receipts("loss", 3, job)
    plant.network.lose(5)
    try:
        _check(plant, "loss", job, undisturbed)
        assert plant.network.num_lost() > 0
    finally:
        plant.network.lose(0)


def test_a_worker_without_power_costs_only_its_shards(plant: Site, undisturbed: Rows) -> None:
    worker = plant.workers[1]
    job = plant.submit(*plant.score_command("dead"))
    plant.wait_for_receipts("dead", 6, job)
    worker.power_off()
    _check(plant, "dead", job, undisturbed)
    plant.start_worker(worker)
    wait_until(lambda: is_up(worker), f"{worker.name} to come back")


def test_a_run_without_workers_says_that_it_waits_and_goes_on_with_the_first(
    plant: Site, undisturbed: Rows
) -> None:
    job = plant.submit(*plant.score_command("deserted"))
    plant.wait_for_receipts("deserted", 6, job)
    for worker in plant.workers:
        worker.power_off()
    time.sleep(DETECTION_SECONDS)
    assert job.poll() is None, job.communicate()[0]
    for worker in plant.workers:
        plant.start_worker(worker)
    text = _check(plant, "deserted", job, undisturbed)
    assert "none of the 1 nodes of the Ray cluster that are alive can score" in text
    assert "a node of the Ray cluster can score again" in text


def test_a_worker_that_joins_late_takes_part(plant: Site, undisturbed: Rows) -> None:
    late = plant.new_worker("worker-3")
    job = plant.submit(*plant.score_command("late", num_actors="3"))
    plant.wait_for_receipts("late", 3, job)
    plant.start_worker(late)
    try:
        _check(plant, "late", job, undisturbed)
        done = late.run("sh", "-c", "cat /tmp/ray/session_*/logs/worker-*.out").stdout
        assert "slow_decoder" in done or ":task_name:" in done
    finally:
        late.power_off()


@pytest.mark.skipif(not has_compiler(), reason="a clock is set by a library that is compiled")
def test_clocks_half_a_minute_off_cost_no_row(plant: Site, undisturbed: Rows) -> None:
    for worker, seconds in zip(plant.workers, (30, -30), strict=True):
        worker.power_off()
        worker.clock_seconds = seconds
        plant.start_worker(worker)
    for worker in plant.workers:
        wait_until(lambda w=worker: is_up(w), f"{worker.name} to come back")
    try:
        job = plant.submit(*plant.score_command("clocks"))
        plant.wait_for_receipts("clocks", 1, job)
        plant.client.clock_seconds = 30
        second = subprocess.run(
            plant.client.command("steel-batch", *plant.score_command("clocks")),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert second.returncode == 4, second.stderr
        assert "on head" in second.stderr
        _check(plant, "clocks", job, undisturbed)
    finally:
        plant.client.clock_seconds = 0
        for worker in plant.workers:
            worker.power_off()
            worker.clock_seconds = 0
            plant.start_worker(worker)


def test_a_dead_head_loses_no_shard_and_the_same_command_continues(
    plant: Site, undisturbed: Rows
) -> None:
    job = plant.submit(*plant.score_command("head"))
    plant.wait_for_receipts("head", 6, job)
    num_done = plant.num_receipts("head")
    num_starts = [num_starts_of(worker) for worker in plant.workers]
    plant.head.power_off()
    code, text = end_of(job)
    assert code == 1, text
    assert "lost the connection to job" in text
    assert plant.num_receipts("head") >= num_done
    plant.head.switch_on()
    plant.start_head()
    wait_until(lambda: is_up(plant.head), "the head to come back")
    for worker, number in zip(plant.workers, num_starts, strict=True):
        wait_until(lambda w=worker, n=number: num_starts_of(w) > n, f"{worker.name} to come back")
    job = plant.submit(*plant.score_command("head", lock_wait="120"))
    _check(plant, "head", job, undisturbed)


@contextlib.contextmanager
def lacking(worker: Machine, what: str) -> Iterator[None]:
    """A worker without something, or with another one."""
    place = site_of(worker)
    changed = (
        place
        / {
            "steel-batch": "steel_batch",
            "the same code": "steel_batch/images/strips.py",
            "the decoder": "slow_decoder.py",
        }[what]
    )
    away = worker.folder / "away"
    changed.rename(away)
    if what == "the same code":
        changed.write_text(away.read_text() + "\n# of another commit\n")
    try:
        yield
    finally:
        if changed.is_file():
            changed.unlink()
        away.rename(changed)


@pytest.mark.parametrize(
    ("lacks", "expected"),
    [
        ("steel-batch", "has no steel-batch that matches this one: ModuleNotFoundError"),
        ("the same code", "on node worker-1: steel-batch"),
        ("the decoder", "on node worker-1: --decoder 'slow_decoder:slow' cannot be loaded"),
    ],
)
def test_a_node_that_lacks_something_stops_the_run_and_is_named(
    plant: Site, lacks: str, expected: str
) -> None:
    store = f"lacks-{lacks.replace(' ', '-')}"
    with lacking(plant.workers[0], lacks):
        code, text = end_of(plant.submit(*plant.score_command(store)))
    assert code == 1, text
    assert expected in text
    assert "Traceback" not in text
    assert not any(plant.rows(store).values())


def test_images_on_the_heads_own_disk_are_not_taken_for_missing(plant: Site) -> None:
    """As where a share is not mounted: empty on one worker, not there on the other."""
    folder = str(plant.head.folder / "images")
    plant.head.run("steel-batch", "synth", "--out", folder, "--num-images", "8", "--dates", DATE)
    (plant.network.folder / plant.workers[0].name / "images").mkdir()
    flags = {"images": folder, "key_pattern": "line={line}/date={date}/{image_id}.jpg"}
    code, text = end_of(plant.submit(*plant.score_command("unmounted", max_bad="1.0", **flags)))
    assert code == 1, text
    assert f"the folder {folder} lacks here what it has on head" in text
    assert "on node worker-" in text
    assert not any(plant.rows("unmounted").values())
