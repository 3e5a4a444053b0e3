"""Which packages of environments lie on the share: the newest of each, by their manifests.

A listing of a directory on NFS may miss what is there, or show a manifest that cannot be read yet. So what is known
stays known until several listings have not shown it and it cannot be read either.
"""

from __future__ import annotations

from typing import NamedTuple

from pydantic import ValidationError

from hakuriver.records import Manifest
from hakuriver.spool import files, layout
from hakuriver.spool.files import Disk, ShareError
from hakuriver.spool.layout import Package

#: Seconds between two listings.
LIST_EVERY_S = 2.0
#: Listings in a row that may miss a manifest before it is looked for by its name.
UNSEEN_MOST = 5


class _Known(NamedTuple):
    package: Package
    image_id: str
    unseen: int = 0  #: listings since it was shown


class Packages:
    """Reads each manifest once."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._known: dict[str, _Known] = {}
        self._listed_at = float("-inf")
        self._newest: dict[str, str] = {}

    @property
    def newest(self) -> dict[str, str]:
        """Name of each environment's newest package."""
        return self._newest

    def image(self, name: str) -> str:
        """Id of the image in a package. Raises KeyError."""
        return self._known[name].image_id

    def look(self, now: float, *, at_once: bool = False) -> None:
        """List them, if that was not done just now. `now`: CLOCK_BOOTTIME, seconds. A share that fails is no news."""
        if not at_once and now - self._listed_at < LIST_EVERY_S:
            return
        self._listed_at = now
        try:
            lying = {name[:-5] for name in files.names(self._disk, self._directory) if name.endswith(".json")}
        except ShareError:
            return
        for name in lying - self._known.keys():
            self._read(name)
        for name in self._known.keys() - lying:
            self._missed(name)
        for name in lying & self._known.keys():
            self._known[name] = self._known[name]._replace(unseen=0)
        self._sort()

    def forget(self, what: str) -> None:
        """A package, or all of an environment, has been deleted: the next look finds what is left, if anything."""
        self._known = {
            name: known for name, known in self._known.items() if what not in (name, known.package.environment)
        }
        self._listed_at = float("-inf")
        self._sort()

    def _sort(self) -> None:
        known = sorted(known.package for known in self._known.values())
        self._newest = {package.environment: package.name for package in known}

    def _read(self, name: str) -> None:
        package = layout.parse_package(name)
        manifest = self._manifest(name) if package else None
        if package and manifest and manifest.name == name:
            self._known[name] = _Known(package, manifest.image_id)

    def _manifest(self, name: str) -> Manifest | None:
        """None: it cannot be read now."""
        try:
            return Manifest.model_validate_json(self._disk.read(layout.manifest(name, self._directory)))
        except (FileNotFoundError, ShareError, ValidationError):
            return None

    def _missed(self, name: str) -> None:
        known = self._known[name]
        if known.unseen < UNSEEN_MOST:
            self._known[name] = known._replace(unseen=known.unseen + 1)
        elif self._gone(name):
            del self._known[name]

    def _gone(self, name: str) -> bool:
        try:
            self._disk.read(layout.manifest(name, self._directory))
        except FileNotFoundError:
            return True
        except ShareError:
            pass
        return False
