"""Starts that wait until the engine has their image, in the order in which they came.

Those of other images and of other executors go on meanwhile. Nothing of it is kept: the document stays in claimed/
until the attempt runs, so that a runner that starts anew begins from there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from hakuriver.records import Control, Start, StartRow
from hakuriver.runner.port import ImageNews, ImagePort
from hakuriver.runner.work import NOT_STARTED, SYNCING, Attempt, Work

Pair = tuple[StartRow, Attempt]


class Waiting(NamedTuple):
    """A start, and those of its attempts that are to begin."""

    start: Start
    pairs: list[Pair]

    def left(self) -> list[Pair]:
        """Those that were not ended meanwhile."""
        return [(row, attempt) for row, attempt in self.pairs if attempt.phase == SYNCING]


class Syncing:
    """The starts that wait for images."""

    def __init__(
        self,
        images: ImagePort,
        work: Work,
        hand: Callable[[Start, list[Pair]], None],
        end: Callable[[list[Attempt], str, str, str], None],
    ) -> None:
        """`hand`: have the keeper start these; `end`: end attempts that it never saw: state, cause, reason."""
        self._images = images
        self._work = work
        self._hand = hand
        self._end = end
        self._waiting: list[Waiting] = []
        self._there: dict[str, ImageNews] = {}  #: images that starts may be handed over with

    def add(self, start: Start, pairs: list[Pair]) -> None:
        """Have these wait for the start's image."""
        assert start.image is not None
        for _, attempt in pairs:
            attempt.phase = SYNCING
        self._waiting.append(Waiting(start, pairs))
        loading = self._images.bring(start.environment, start.image)
        if loading is not None:
            self._tell(self._waiting[-1], loading)

    def stirs(self) -> bool:
        """Whether there is anything to do."""
        return bool(self._there) or self._images.stirred()

    def turn(self, leased: bool) -> None:
        """Take in what has become of images; what may start does, in order, under a lease that lasts."""
        for news in self._images.news():
            self._hear(news)
        if self._there and leased:
            self._hand_over()

    def _hear(self, news: ImageNews) -> None:
        if news.state == "there":
            self._there[news.wanted] = news
            return
        for waiting in [w for w in self._waiting if w.start.image == news.wanted]:
            if news.state == "loading":
                self._tell(waiting, news.package or "")
            else:
                self._end([attempt for _, attempt in waiting.left()], "failed", "launch", NOT_STARTED + news.reason)
                self._waiting.remove(waiting)

    def _tell(self, waiting: Waiting, package: str) -> None:
        for _, attempt in waiting.left():
            self._work.tell_syncing(attempt, package)

    def _hand_over(self) -> None:
        there, self._there = self._there, {}
        ready = [waiting for waiting in self._waiting if waiting.start.image in there]
        self._waiting = [waiting for waiting in self._waiting if waiting.start.image not in there]
        for start, pairs in [(w.start, w.left()) for w in ready]:
            news = there[start.image or ""]
            for _, attempt in pairs:
                attempt.image = news.image
            self._hand(start.model_copy(update={"environment": news.package, "image": news.image}), pairs)

    def control(self, attempt: Attempt, control: Control) -> None:
        """Carry out a control for an attempt that waits here."""
        if control.op == "kill":
            self._end([attempt], "killed", "killed", "killed before it started")
            self._work.answer(control, True, "killed")
        else:
            self._work.answer(control, False, f"cannot {control.op}: its image is being loaded")
