"""The host as a process: one thread ticks, another tells; see `hakuriver.daemons` for the rest.

Notices of inotify and an adaptive pause set the pace; listing is what finds things.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import time

from hakuriver import daemons, memory
from hakuriver.daemons import RETRY_S, Saying, Stop, boottime
from hakuriver.doctor.quick import refuse_broken, refuse_state
from hakuriver.host.environments import Environments
from hakuriver.host.leader import Host, NotYet, Superseded
from hakuriver.host.telling import Telling
from hakuriver.ids import new_job_id
from hakuriver.records import River
from hakuriver.settings import Settings
from hakuriver.spool import files, layout
from hakuriver.spool.files import LocalDisk, ShareError
from hakuriver.spool.locks import inbox_lock
from hakuriver.spool.watching import Watch

log = logging.getLogger("hakuriver.host")

#: Seconds between ticks while another host leads.
STANDBY_S = 0.5
#: Seconds after which an unfinished file of the host's own is a dead one's; and one that a client began.
UNFINISHED_S, DOOR_UNFINISHED_S = 3600.0, 86400.0
#: The interpreter gives the ticking thread its turn after so many seconds of the telling one's.
SWITCH_S = 0.0005


def run(settings: Settings) -> int:
    """Run the host until a signal; return the exit status."""
    sys.setswitchinterval(SWITCH_S)

    def work(stop: Stop) -> int:
        return Ticking(settings, stop).run()

    return daemons.serve(work, log, settings.paths.host_log_file, "running tasks go on")


class Ticking:
    """The thread that ticks."""

    def __init__(self, settings: Settings, stop: Stop) -> None:
        self._settings = settings
        self._stop = stop
        self._disk = LocalDisk(settings.paths.shared_dir, stop.answered)
        self._saying = Saying(log, manager=stop.manager)
        self._watch = Watch()
        self._memory = memory.GiveBack()

    def run(self) -> int:
        """Tick until stopped."""
        river = daemons.wait_for_share(self._disk, self._stop, self._saying)
        if river is None:
            return 0
        with self._stop.at_work():
            refuse_broken(self._disk.root, log)
        refuse_state(self._settings.paths.state_dir)
        host_id, _lock = self._identity(river)
        telling = Telling(self._disk, self._settings, river.cluster_id)
        self._environments = Environments(
            self._disk, self._settings, river.cluster_id, now=time.time, new_id=new_job_id, tell=telling.environments
        )
        host = Host(
            self._disk, self._settings, host_id, boottime=boottime, now=time.time, new_id=new_job_id,
            own_uid=os.getuid(), tell=telling.put, lock=inbox_lock, engine=self._environments,
        )  # fmt: skip
        telling.start()
        while not self._stop.asked.is_set():
            self._pause(self._tick(host, telling))
            if not self._stop.found:
                daemons.wait_for_share(self._disk, self._stop, self._saying)
        self._release(host)
        telling.stop()
        return 0

    def _release(self, host: Host) -> None:
        try:
            with self._stop.at_work():
                host.release()
        except (NotYet, Superseded, ShareError) as reason:
            log.info("the baton stays as it is: %s", reason)

    def _identity(self, river: River) -> tuple[str, int]:
        directory = os.path.join(self._settings.paths.state_dir, river.cluster_id, "host")
        taken = "a host of this cluster runs on this machine already with this state directory"
        return daemons.identity(directory, "id", 12, taken)

    def _tick(self, host: Host, telling: Telling) -> float:
        """One tick; return how long to pause at most."""
        leading = host.leading
        try:
            with self._stop.at_work():
                happened = host.tick()
        except NotYet as reason:
            self._saying.say(f"waiting: {reason}")
            self._stop.good_round()
            return STANDBY_S
        except Superseded as reason:
            self._saying.say(f"{reason}; this host stands by")
            host.leading = False
            self._environments.stand_by()
            self._stop.good_round()
            return STANDBY_S
        except ShareError as error:
            self._saying.say(error)
            self._stop.bad_round(error)
            self._watch.close()
            self._watch = Watch()  # what comes back may be another mount
            return RETRY_S
        self._saying.say(f"leading, term {host.journal.baton.term}")
        self._stop.good_round()
        if not leading:
            telling.rebuild_if_needed(host.journal.baton)
            with self._stop.at_work():
                self._remove_unfinished()
        self._pass_on(host, telling)
        self._watch_directories()
        self._memory.look(happened, boottime())
        return 0.0 if happened else host.pause_s()

    def _remove_unfinished(self) -> None:
        """What writers left that died before their rename: the host's own, and day-old ones at the door."""
        for directory in (layout.HOST, layout.RECEIPTS, "jobs", layout.INDEX, layout.WWW):
            files.remove_unfinished(self._disk, directory, UNFINISHED_S)
        files.remove_unfinished(self._disk, layout.INCOMING, DOOR_UNFINISHED_S)

    def _pass_on(self, host: Host, telling: Telling) -> None:
        """Hand the teller what does not come with a tick."""
        if host.want_reindex:
            host.want_reindex = False
            telling.reindex()
        if gone := host.housekeeping.gone():
            telling.forget(gone)

    def _watch_directories(self) -> None:
        self._watch.add(f"{self._disk.root}/{layout.INCOMING}")
        self._watch.add(f"{self._disk.root}/{layout.BELLS}")

    def _pause(self, seconds: float) -> None:
        """Until something comes; `poll` rather than `select`, which is limited to small descriptors."""
        poller = select.poll()
        poller.register(self._stop.wake, select.POLLIN)
        poller.register(self._environments.bell, select.POLLIN)
        if self._watch.fileno() >= 0:
            poller.register(self._watch.fileno(), select.POLLIN)
        poller.poll(self._stop.rest_s(seconds) * 1000)
        self._watch.clear()
        self._environments.hush()
