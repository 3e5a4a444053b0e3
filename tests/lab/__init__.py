"""Shared filesystems, each brought up on this one machine as several machines would see it: see `base.Lab`."""

from __future__ import annotations

import importlib

from lab.base import Lab

#: Name of a filesystem -> the module and the class of its lab.
LABS = {
    "local": ("lab.local", "Local"), "nfs": ("lab.uml", "NFS"), "cifs": ("lab.uml", "CIFS"),
    "ganesha": ("lab.ganesha", "Ganesha"), "gluster": ("lab.gluster", "Gluster"),
    "moosefs": ("lab.moosefs", "MooseFS"), "sshfs": ("lab.sshfs", "SSHFS"),
}  # fmt: skip


def lab_of(name: str) -> type[Lab]:
    """The lab of a filesystem by its name. Raises KeyError."""
    module, cls = LABS[name]
    found: type[Lab] = getattr(importlib.import_module(module), cls)
    return found
