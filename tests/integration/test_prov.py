import threading, time, os
from cluster import Cluster
def test_x(scratch):
    with Cluster(scratch) as river:
        river.start_host()
        (river.path("host/journal/.000001-000000000009.json.abc.tmp")).write_text('{"chan')
        assert not river._knows("n9", 1)
def test_y(scratch):
    """files come and go in out/"""
    from test_real_share import local_bytes
    from test_real_tasks import test_nothing_is_left_lying as t
    with Cluster(scratch) as river:
        river.start_host(); r = river.start_runner("n1"); river.start_runner("n2")
        out = next(river.machine("m1").state.rglob("out"))
        stop = []
        def flip():
            while not stop:
                p = out / "9.out.gaps.tmp"; p.write_text(""); os.rename(p, out / "9.out.gaps"); os.unlink(out / "9.out.gaps")
        th = threading.Thread(target=flip); th.start()
        try:
            for _ in range(2000): local_bytes(r)
        finally: stop.append(1); th.join()
def test_z(scratch):
    from test_real_tasks import test_nothing_is_left_lying as t
    with Cluster(scratch) as river:
        river.start_host(); r = river.start_runner("n1"); river.start_runner("n2")
        out = next(river.machine("m1").state.rglob("out"))
        stop = []
        def flip():
            while not stop:
                p = out / "9.out"; p.write_text(""); os.unlink(p)
        th = threading.Thread(target=flip); th.start()
        try:
            for _ in range(1000): t(river)
        finally: stop.append(1); th.join()
