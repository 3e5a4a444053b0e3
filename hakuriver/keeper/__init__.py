"""The keeper: one small process per runner, parent of all its tasks that are plain processes.

It starts tasks, reaps them, enforces their limits and the lease, records start and end on the local disk
and tells the runner over a unix socket. For what Docker or systemd holds it has attendants; see held.py.
It touches nothing on the share and imports the standard library only: whatever hangs or breaks elsewhere, the lease is
kept here.
"""
