"""Reading ahead in a tar finds what reading one header after the other finds, in fewer waits."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from steel_batch.config import Limits
from steel_batch.errors import SteelBatchError
from steel_batch.lake import Lake
from steel_batch.sources.tar_ahead import Pace
from steel_batch.sources.tar_headers import Member
from steel_batch.sources.tar_stream import MAX_WINDOW_BYTES, READ_THROUGH_BYTES, WINDOW_BYTES
from steel_batch.sources.tar_walk import tar_members
from tests.conftest import examples, new_bucket
from tests.fault_proxy import FaultProxy, Faults
from tests.sources.made_up_sources import images_of, tar_of

SHORT = Pace(
    stretch_bytes=1, fewest_members=3, most_members=3, first_members=2, most_stretches=4
)  # fmt: skip
DATES = {"mtime": "1.5"}

names = st.sampled_from(["a.jpg", "d/b.jpg", "long/" * 30 + "c.jpg", "größe.jpg", "t.tar"])
kinds = st.sampled_from(
    [tarfile.REGTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, b"Z"]
)
contents = st.sampled_from(
    [b"", b"x" * 700, b"y" * 5000, b"ustar" * 900, tar_of([("in.jpg", b"in" * 300)] * 9)]
)
members = st.tuples(names, kinds, contents, st.sampled_from([None, {}, DATES, {"path": "p.jpg"}]))


def written(
    made: list[tuple[str, bytes, bytes, dict[str, str] | None]], form: int, num_archives: int
) -> bytes:
    """Archives one after the other; a member's headers are global where there are some."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=form) as tar:
        for i, (name, kind, content, pax_headers) in enumerate(made):
            if pax_headers and form == tarfile.PAX_FORMAT:
                archive.write(tarfile.TarInfo.create_pax_global_header(pax_headers))
                tar.offset = archive.tell()
            info = tarfile.TarInfo(f"{i}-{name}")
            info.type, info.linkname, info.size = kind, "0-a.jpg", len(content)
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE):
                info.size, content = 0, b""
            tar.addfile(info, io.BytesIO(content))
    return archive.getvalue() * num_archives


def outcome(lake: Lake, size: int, pace: Pace | None, limits: Limits) -> list[Member | str]:
    """The members and the error, if there is one."""
    found: list[Member | str] = []
    etag = lake.stat("s.tar")
    assert etag is not None
    try:
        found.extend(tar_members(lake, "s.tar", size, etag.etag, limits, pace=pace))
    except SteelBatchError as error:
        found.append(error.message)
    return found


@given(
    made=st.lists(members, min_size=1, max_size=40),
    form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    num_archives=st.sampled_from([1, 1, 3]),
    damage=st.none() | st.tuples(st.floats(0, 1), st.sampled_from(["cut", "change", "zero"])),
    limits=st.sampled_from([Limits(), Limits(tar_members=20), Limits(tar_header_bytes=1536)]),
)
@example(
    made=[("a.jpg", tarfile.REGTYPE, b"x" * 700, {"path": "p.jpg"} if i == 20 else None)
          for i in range(40)],
    form=tarfile.PAX_FORMAT, num_archives=1, damage=None, limits=Limits(),
)  # fmt: skip
@example(
    made=[("a.jpg", tarfile.REGTYPE, b"x" * 700, {"path": "p.jpg"} if i == 0 else None)
          for i in range(20)],
    form=tarfile.PAX_FORMAT, num_archives=3, damage=None, limits=Limits(),
)  # fmt: skip
@settings(max_examples=examples(300))
def test_reading_ahead_finds_the_same_members_and_errors(
    tmp_path_factory: pytest.TempPathFactory,
    made: list[tuple[str, bytes, bytes, dict[str, str] | None]],
    form: int,
    num_archives: int,
    damage: tuple[float, str] | None,
    limits: Limits,
) -> None:
    data = bytearray(written(made, form, num_archives))
    if damage is not None:
        where, what = int(damage[0] * len(data)), damage[1]
        if what == "cut":
            del data[where:]
        else:
            length = min(512 if what == "zero" else 1, len(data) - where)
            data[where : where + length] = b"\0" * length if what == "zero" else b"!" * length
    lake = Lake(str(tmp_path_factory.mktemp("lake")))
    lake.write("s.tar", bytes(data))
    one_by_one = outcome(lake, len(data), None, limits)
    assert outcome(lake, len(data), SHORT, limits) == one_by_one


@pytest.mark.s3
def test_a_tar_of_small_members_costs_few_requests(s3_endpoint: str) -> None:
    with FaultProxy(s3_endpoint) as proxy:
        lake, there = lake_behind(proxy, s3_endpoint)
        made = tar_of([(f"{i:04}.jpg", b"%d" % i * 1500) for i in range(2500)])
        there.write("s.tar", made)
        proxy.set(Faults())
        found = images_of(lake, "*.tar")
        assert len(found) == 2500
        assert all(ref.bytes == len(b"%d" % i * 1500) for i, ref in enumerate(found.values()))
        assert proxy.counts()["requests"] < 40
        assert lake.counts()["bytes_read"] < len(made) + 2 * MAX_WINDOW_BYTES


@pytest.mark.s3
def test_large_members_are_skipped_and_several_stretches_are_read_at_once(s3_endpoint: str) -> None:
    with FaultProxy(s3_endpoint) as proxy:
        lake, there = lake_behind(proxy, s3_endpoint)
        num, size = 60, 2 * READ_THROUGH_BYTES
        made = tar_of([(f"{i:03}.jpg", bytes([i]) * size) for i in range(num)])
        there.write("s.tar", made)
        proxy.set(Faults(work_seconds=0.05))
        pace = Pace(fewest_members=12, most_members=12, stretch_bytes=1)
        item = lake.stat("s.tar")
        assert item is not None
        found = list(tar_members(lake, "s.tar", len(made), item.etag, pace=pace))
        assert [member.size for member in found] == [size] * num
        assert proxy.counts()["most_at_once"] >= 3
        # Each of the three stretches ahead is searched for its first header.
        assert lake.counts()["bytes_read"] < num * 2 * WINDOW_BYTES + 3 * 2 * size


@pytest.mark.s3
def test_many_tars_are_read_at_once(s3_endpoint: str) -> None:
    with FaultProxy(s3_endpoint) as proxy:
        lake, there = lake_behind(proxy, s3_endpoint)
        for i in range(40):
            there.write(f"{i}.tar", tar_of([(f"{k}.jpg", bytes(20_000)) for k in range(4)]))
        proxy.set(Faults(work_seconds=0.2))
        assert len(images_of(lake, "*.tar")) == 160
        assert proxy.counts()["most_at_once"] > 16


def test_a_folder_is_not_read_ahead(tmp_path: Path) -> None:
    lake = Lake(str(tmp_path))
    lake.write("s.tar", tar_of([(f"{i}.jpg", bytes(100_000)) for i in range(40)]))
    assert len(images_of(lake, "*.tar")) == 40
    assert lake.counts()["bytes_read"] < 42 * 2 * WINDOW_BYTES


def lake_behind(proxy: FaultProxy, endpoint: str) -> tuple[Lake, Lake]:
    """A new place as seen through the proxy, and as it is."""
    url = f"{new_bucket(endpoint)}/lake"
    return Lake(url, endpoint_url=proxy.url), Lake(url, endpoint_url=endpoint)
