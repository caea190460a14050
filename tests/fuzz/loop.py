"""The loop that changes good inputs and gives them to a target.

    python -m tests.fuzz.loop TARGET [--seconds 600] [--seed N]

It ends with exit 1 at the first input that raises an error of another library, takes more memory
than is stated here, or does not end; the input is written to `build/fuzz`.
"""

from __future__ import annotations

import argparse
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.fuzz.targets import ALLOWED, TARGETS, Fuzzed

MAX_SECONDS: Final = 60
"""Of one input, on a core that has other work."""
MAX_MEMORY_BYTES: Final = 256 << 20
"""What all inputs together may add to the process's greatest size."""
NUMBERS: Final = (0, 1, 2, 255, 1 << 15, 0xFFFF, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1)


class FoundError(Exception):
    """An input that a target does not refuse as it should."""

    def __init__(self, data: bytes, what: str) -> None:
        super().__init__(what)
        self.data = data


def mutated(
    data: bytes, seeds: list[bytes], words: tuple[bytes, ...], draw: random.Random
) -> bytes:
    """An input with some changes."""
    result = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        at = draw.randrange(len(result) + 1)
        change = draw.randrange(9)
        if change == 0:
            result[at : at + 1] = draw.randbytes(draw.randrange(3))
        elif change == 1:
            del result[at : at + draw.choice((1, 2, 4, 16, 512))]
        elif change == 2:
            del result[at:]
        elif change == 3:
            size = draw.choice((1, 2, 4, 8))
            number = draw.choice(NUMBERS) % (1 << 8 * size)
            little = number.to_bytes(size, "little")
            result[at : at + size] = draw.choice((little, little[::-1]))
        elif change == 4 and words:
            word = draw.choice(words)
            result[at : at + draw.choice((0, len(word)))] = word
        elif change == 5:
            piece = bytes(result[at : at + draw.choice((2, 16, 512))])
            result[at:at] = piece * draw.choice((1, 2, 50))
        elif change == 6:
            other = draw.choice(seeds)
            result[at:] = other[min(at, len(other)) :]
        elif at < len(result):
            result[at] ^= 1 << draw.randrange(8)
    return bytes(result)


def run(fuzzed: Fuzzed, data: bytes) -> None:
    """Give one input to a target.

    Raises:
        FoundError: It is not refused as it should be.
    """
    with _empty_folder() as folder, _alarm(data):
        try:
            fuzzed.run(data, folder)
        except ALLOWED:
            pass
        except FoundError:
            raise
        except Exception as error:
            raise FoundError(data, f"{type(error).__name__}: {error}") from error


def fuzz(name: str, *, seed: int, seconds: float = 0.0, num_inputs: int = 0) -> int:
    """Fuzz a target for a time or a number of inputs; how many it took.

    Raises:
        FoundError: See `run`; also where they took too much memory.
    """
    fuzzed, draw = TARGETS[name], random.Random(seed)
    seeds = fuzzed.seeds()
    for data in seeds:
        run(fuzzed, data)
    before, give_up, count = _peak_bytes(), time.monotonic() + seconds, 0
    while count < num_inputs or time.monotonic() < give_up:
        data = mutated(draw.choice(seeds), seeds, fuzzed.words, draw)
        run(fuzzed, data)
        count += 1
        if _peak_bytes() - before > MAX_MEMORY_BYTES:
            raise FoundError(data, f"more than {MAX_MEMORY_BYTES:,} bytes of memory")
    return count


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


@contextmanager
def _empty_folder() -> Iterator[Path]:
    shm = Path("/dev/shm")  # noqa: S108 - only for speed
    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shm if shm.is_dir() else None))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def _alarm(data: bytes) -> Iterator[None]:
    def give_up(*_: object) -> None:
        raise FoundError(data, f"no answer after {MAX_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(MAX_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_007)
    options = parser.parse_args()
    try:
        count = fuzz(options.target, seed=options.seed, seconds=options.seconds)
    except FoundError as error:
        folder = Path("build/fuzz")
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{options.target}-{options.seed}"
        path.write_bytes(error.data)
        print(f"{options.target}: {error}; the input is {path}", file=sys.stderr)
        return 1
    grown = f"{_peak_bytes() >> 20} MiB at most"
    print(
        f"{options.target}: {count:,} inputs in {options.seconds:g} s, {grown}, seed {options.seed}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
