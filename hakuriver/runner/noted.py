"""Attempts that ended in the runner, before the keeper saw them: noted on this node's disk before anybody is told.

The document that such an attempt came with may have to stay for others' sake. A runner that starts anew finds it there,
and must not run what was killed while its image was being loaded, or what failed and runs elsewhere by now.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from typing import Any

from hakuriver.spool.files import ShareError


class Noted:
    """One file for each document, a line for each attempt."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._places: set[str] = set()

    def read(self) -> dict[str, list[dict[str, Any]]]:
        """All that is noted, by document: task, attempt and its ending."""
        try:
            found = os.listdir(self._directory)
        except FileNotFoundError:
            found = []
        self._places = set(found)
        return {place: self._lines(place) for place in found}

    def _lines(self, place: str) -> list[dict[str, Any]]:
        rows = []
        with open(f"{self._directory}/{place}") as file:
            for line in file:
                try:
                    rows.append(json.loads(line))
                except ValueError:
                    break  # torn by a power cut: nobody was told
        return rows

    def write(self, place: str, rows: Iterable[dict[str, Any]]) -> None:
        """Note these durably. Raises ShareError if this node's disk does not take them."""
        path = f"{self._directory}/{place}"
        try:
            self._append(path, "".join(json.dumps(row) + "\n" for row in rows).encode(), place not in self._places)
        except OSError as error:
            raise ShareError("write", path, error) from error
        self._places.add(place)

    def _append(self, path: str, data: bytes, new: bool) -> None:
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        with open(path, "ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if new:
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            os.fsync(directory)
            os.close(directory)

    def drop(self, places: Iterable[str]) -> None:
        """These documents are gone."""
        for place in self._places.intersection(places):
            os.unlink(f"{self._directory}/{place}")
            self._places.discard(place)

    def keep(self, places: set[str]) -> None:
        """Only these documents are there."""
        self.drop(self._places - places)
