"""Carrying: offsets, gaps, restarts, and what is freed."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
from pathlib import Path

import pytest
from runner_stage import JOB, CrashDisk, Killed

from hakuriver.keeper.proc import start_ticks
from hakuriver.runner.output import BLOCK, Carrier, Gap, Stream, marker, on_share, read_gaps
from hakuriver.runner.work import Attempt
from hakuriver.spool import layout
from hakuriver.spool.files import SYNC_ALL_FROM, LocalDisk, ShareError

LIMIT = 64 * BLOCK
PLENTY = 1 << 30


def make_share(path: Path) -> None:
    path.mkdir(exist_ok=True)
    (path / layout.SENTINEL).touch()


class Place:
    """A local file and its copy on a share."""

    def __init__(self, scratch: Path) -> None:
        self.local = scratch / "0.out"
        self.local.touch()
        self.share = scratch / "share"
        make_share(self.share)
        self.disk = LocalDisk(str(self.share))

    def stream(self, limit: int = LIMIT) -> Stream:
        return Stream(str(self.local), "dir/x.out", limit)

    def write(self, data: bytes) -> None:
        with open(self.local, "ab") as file:
            file.write(data)

    def drop(self, *gaps: Gap) -> None:
        """What the keeper does when there is too much: the note first, then the hole."""
        Path(f"{self.local}.gaps").write_text(json.dumps(gaps))
        fd = os.open(self.local, os.O_RDWR)
        for start, end in gaps:
            os.pwrite(fd, b"\0" * (end - start), start)
            _punch(fd, start, end)
        os.close(fd)

    @property
    def copy(self) -> bytes:
        path = self.share / "dir/x.out"
        return path.read_bytes() if path.exists() else b""


def _punch(fd: int, start: int, end: int) -> None:
    from hakuriver.keeper.kernel import punch

    punch(fd, start, end)


def noise(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def place(scratch: Path) -> Place:
    return Place(scratch)


def test_nothing_written_makes_no_file(place: Place) -> None:
    stream = place.stream()
    assert stream.carry(place.disk, PLENTY) == 0
    assert stream.finish(place.disk, PLENTY, durable=True) == (0, True)
    assert not (place.share / "dir").exists()


def test_what_is_carried_is_whole_and_freed(place: Place) -> None:
    stream, data = place.stream(), noise(50 * BLOCK + 100)
    place.write(data[:70])
    stream.carry(place.disk, PLENTY)
    assert place.copy == data[:70]
    place.write(data[70:])
    stream.carry(place.disk, PLENTY)
    assert place.copy == data
    assert place.local.stat().st_size == len(data)
    assert place.local.stat().st_blocks * 512 <= 2 * BLOCK


def test_no_more_than_asked_for_is_carried_at_once(place: Place) -> None:
    place.write(noise(200 * BLOCK))
    stream = place.stream()
    assert 20 * BLOCK <= stream.carry(place.disk, 20 * BLOCK) <= 20 * BLOCK + LIMIT // 4
    assert stream.pending()
    stream.carry(place.disk, PLENTY)
    assert not stream.pending()
    assert place.copy == noise(200 * BLOCK)


def test_a_restart_goes_on_at_the_first_block_that_is_left(place: Place) -> None:
    data = noise(30 * BLOCK + 17)
    place.write(data[: 20 * BLOCK + 9])
    place.stream().carry(place.disk, PLENTY)
    place.write(data[20 * BLOCK + 9 :])
    again = place.stream()
    assert again.carry(place.disk, PLENTY) == 10 * BLOCK + 17
    assert place.copy == data


def test_all_of_it_carried_before_a_restart(place: Place) -> None:
    data = noise(4 * BLOCK)
    place.write(data)
    place.stream().carry(place.disk, PLENTY)
    assert place.stream().finish(place.disk, PLENTY, durable=True) == (0, True)
    assert place.copy == data


def test_a_gap_becomes_one_line(place: Place) -> None:
    data, gap = noise(100 * BLOCK + 5), (16 * BLOCK, 84 * BLOCK)
    place.write(data)
    place.drop(gap)
    assert place.stream().finish(place.disk, PLENTY, durable=True)[1]
    assert place.copy == data[: gap[0]] + marker(gap) + data[gap[1] :]
    assert b"278528 bytes dropped" in marker(gap)


def test_several_gaps_and_restarts_at_every_step(place: Place) -> None:
    data, gaps = noise(120 * BLOCK + 5), [(10 * BLOCK, 20 * BLOCK), (40 * BLOCK, 90 * BLOCK)]
    place.write(data)
    place.drop(*gaps)
    while (stream := place.stream()).carry(place.disk, 1) and stream.pending():
        pass  # each piece by another runner
    expected = data[: 10 * BLOCK] + marker(gaps[0]) + data[20 * BLOCK : 40 * BLOCK] + marker(gaps[1])
    assert place.copy == expected + data[90 * BLOCK :]


def test_a_gap_that_comes_while_a_piece_is_read_is_not_carried_as_zeros(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, gap = noise(100 * BLOCK), (16 * BLOCK, 84 * BLOCK)
    place.write(data)
    stream, pread = place.stream(400 * BLOCK), os.pread
    come: list[bool] = []

    def read(fd: int, size: int, offset: int) -> bytes:
        if not come:
            come.append(True)
            place.drop(gap)
        return pread(fd, size, offset)

    monkeypatch.setattr("hakuriver.runner.output.os.pread", read)
    stream.carry(place.disk, PLENTY)
    assert place.copy == data[: gap[0]] + marker(gap) + data[gap[1] :]


def test_a_gap_grows_behind_what_is_carried(place: Place) -> None:
    first, later = noise(100 * BLOCK, 1), noise(150 * BLOCK, 2)
    place.write(first)
    place.drop((16 * BLOCK, 84 * BLOCK))
    stream = place.stream()
    stream.carry(place.disk, 5 * BLOCK)
    place.write(later)
    place.drop((16 * BLOCK, 200 * BLOCK))
    stream.carry(place.disk, PLENTY)
    assert place.copy == first[: 16 * BLOCK] + marker((16 * BLOCK, 200 * BLOCK)) + (first + later)[200 * BLOCK :]


def test_a_gap_that_reaches_back_over_what_was_carried_starts_it_over(place: Place) -> None:
    data = noise(60 * BLOCK)
    place.write(data[: 20 * BLOCK])
    stream = place.stream()
    stream.carry(place.disk, PLENTY)
    place.write(data[20 * BLOCK :])
    gap = (18 * BLOCK, 30 * BLOCK)
    place.drop(gap)
    stream.carry(place.disk, PLENTY)
    assert place.copy == data[: gap[0]] + marker(gap) + data[gap[1] :]


@pytest.mark.parametrize("seed", range(6))
def test_random_writes_gaps_and_deaths(scratch: Path, seed: int) -> None:
    chance = random.Random(seed)
    place, data, gaps = Place(scratch), b"", list[Gap]()
    stream = place.stream()
    for number in range(60):
        more = noise(chance.randrange(1, 12 * BLOCK), number + seed * 100)
        place.write(more)
        data += more
        if chance.random() < 0.3 and stream.position >= 0:
            start = (max(stream.position, gaps[-1][1] if gaps else 0) + LIMIT // 4) // BLOCK * BLOCK
            if start < len(data) - 20 * BLOCK:
                gaps.append((start, start + 8 * BLOCK))
                place.drop(*gaps)
        try:
            stream.carry(CrashDisk(str(place.share), chance.randrange(1, 9)), chance.randrange(1, 20 * BLOCK))
        except Killed:
            stream = place.stream()
    assert stream.finish(place.disk, PLENTY, durable=True)[1]
    expected, at = b"", 0
    for gap in gaps:
        expected, at = expected + data[at : gap[0]] + marker(gap), gap[1]
    assert place.copy == expected + data[at:]
    assert read_gaps(str(place.local)) == gaps


def test_on_share_counts_gaps_and_their_lines() -> None:
    gap = (BLOCK, 3 * BLOCK)
    assert on_share(BLOCK, [gap]) == BLOCK
    assert on_share(3 * BLOCK, [gap]) == BLOCK + len(marker(gap))


def test_a_truncated_output_is_carried_from_its_new_start(place: Place) -> None:
    stream = place.stream()
    place.write(b"first words")
    stream.carry(place.disk, PLENTY)
    os.truncate(place.local, 0)
    place.write(b"second")
    stream.carry(place.disk, PLENTY)
    assert place.copy == b"secondwords"


def test_a_share_that_fails_is_tried_again(place: Place) -> None:
    class Failing(LocalDisk):
        left = 2

        def write_at(self, path: str, offset: int, data: bytes, *, durable: bool = False) -> None:
            self.left -= 1
            if self.left == 0:
                raise ShareError("write", path, OSError(errno.EIO, "broken"))
            super().write_at(path, offset, data, durable=durable)

    disk, stream = Failing(str(place.share)), place.stream()
    place.write(noise(40 * BLOCK))
    with pytest.raises(ShareError):
        stream.carry(disk, PLENTY)
    stream.carry(disk, PLENTY)
    assert place.copy == noise(40 * BLOCK)


# -- many at once


def ended(k: int, size: int) -> Attempt:
    attempt = Attempt(f"{JOB}-{k}", JOB, k, 1, None)
    attempt.slot, attempt.end = k, {"out_bytes": size, "err_bytes": 0, "reason": ""}
    return attempt


def test_an_output_that_cannot_be_stored_holds_up_no_other(scratch: Path) -> None:
    class Guarded(LocalDisk):
        def write_at(self, path: str, offset: int, data: bytes, *, durable: bool = False) -> None:
            if path.endswith("/1.out"):
                raise ShareError("write", path, OSError(errno.EACCES, "Permission denied"))
            super().write_at(path, offset, data, durable=durable)

    make_share(scratch)
    carrier = Carrier(Guarded(str(scratch)), str(scratch), LIMIT)
    for k in range(3):
        (scratch / f"{k}.out").write_bytes(b"x")
        carrier.finish(ended(k, 1))
    done = {finished.attempt.k for _ in range(4) for finished in carrier.turn(0.0)}
    assert done == {0, 2}
    assert carrier.trouble is not None
    assert carrier.busy


def test_a_turn_is_bounded_and_the_next_goes_on(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hakuriver.runner.output.TURN_MOST", 10 * BLOCK)
    carrier = Carrier(LocalDisk(str(scratch / "share")), str(scratch), LIMIT)
    make_share(scratch / "share")
    for k in range(3):
        (scratch / f"{k}.out").write_bytes(noise(40 * BLOCK, k))
        carrier.finish(ended(k, 40 * BLOCK))
    turns = 0
    while carrier.busy:
        carrier.turn(0.0)
        turns += 1
    assert turns >= 4
    for k in range(3):
        assert (scratch / "share" / layout.stdout_path(JOB, k, 1)).read_bytes() == noise(40 * BLOCK, k)


def test_running_tasks_are_looked_at_every_second(scratch: Path) -> None:
    make_share(scratch / "share")
    carrier = Carrier(LocalDisk(str(scratch / "share")), str(scratch), LIMIT)
    attempt = ended(0, 0)
    carrier.follow(attempt)
    assert carrier.due() == 0.0
    carrier.turn(5.0)
    (scratch / "0.out").write_bytes(b"now")
    carrier.turn(5.5)
    assert carrier.due() == 6.0
    target = scratch / "share" / layout.stdout_path(JOB, 0, 1)
    assert not target.exists()
    carrier.turn(6.0)
    assert target.read_bytes() == b"now"
    carrier.leave(attempt)
    assert carrier.due() is None


def test_a_slot_that_serves_another_task_by_now_is_left_alone(scratch: Path) -> None:
    make_share(scratch / "share")
    carrier = Carrier(LocalDisk(str(scratch / "share")), str(scratch), LIMIT)
    process = subprocess.Popen(["sleep", "1000"])
    attempt = ended(0, 0)
    attempt.process = (process.pid, start_ticks(process.pid))
    target = scratch / "share" / layout.stdout_path(JOB, 0, 1)
    carrier.follow(attempt)
    (scratch / "0.out").write_bytes(b"own")
    carrier.turn(1.0)
    process.kill()
    process.wait()
    (scratch / "0.out").write_bytes(b"not of this task")
    carrier.turn(5.0)
    assert target.read_bytes() == b"own"
    assert carrier.due() is None, "its end will tell the rest"


def test_a_sync_that_fails_has_the_output_written_again(scratch: Path) -> None:
    class Forgetful(LocalDisk):
        lost = True

        def sync_all(self) -> None:
            if self.lost:
                self.lost = False
                os.truncate(f"{self.root}/{layout.stdout_path(JOB, 0, 1)}", 0)
                raise ShareError("sync", "", OSError(errno.EIO, "lost it"))

    make_share(scratch / "share")
    carrier = Carrier(Forgetful(str(scratch / "share")), str(scratch), LIMIT)
    for k in range(SYNC_ALL_FROM):
        (scratch / f"{k}.out").write_bytes(b"hello")
        carrier.finish(ended(k, 5))
    assert carrier.turn(0.0) == []
    assert len(carrier.turn(0.0)) == SYNC_ALL_FROM
    assert (scratch / "share" / layout.stdout_path(JOB, 0, 1)).read_bytes() == b"hello"
