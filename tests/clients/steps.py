"""Steps of a client program: each is named, asserted and counted.

A program prints `ok NAME` or `FAILED NAME: why` for every step and ends with a non-zero status
when one failed; run.sh counts these lines.
"""

import contextlib
import os
import signal
import sys
import time
import traceback
import urllib.request

ENDPOINTS = [
    (host, int(port))
    for host, port in (e.rsplit(":", 1) for e in os.environ["ENDPOINTS"].split(","))
]
MEMBERS_DIR = os.environ["MEMBERS_DIR"]
_failed = []


@contextlib.contextmanager
def step(name):
    try:
        yield
    except Exception as error:  # a step that fails must not hide the ones after it
        traceback.print_exc()
        _failed.append(name)
        print(f"FAILED {name}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    else:
        print(f"ok {name}", flush=True)


def finish():
    sys.stdout.flush()
    os._exit(1 if _failed else 0)  # libraries leave threads and channels behind


def eq(got, wanted):
    assert got == wanted, f"got {got!r}, wanted {wanted!r}"


def until(what, seconds, condition):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"not within {seconds} s: {what}"
        time.sleep(0.05)


def patiently(call, seconds=15):
    """Calls until it does not raise: for the moments in which a cluster has no leader."""
    limit = time.monotonic() + seconds
    while True:
        try:
            return call()
        except Exception:
            if time.monotonic() > limit:
                raise
            time.sleep(0.2)


def healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return b'"true"' in answer.read()
    except OSError:
        return False


def kill_member(n):
    """kill -9; the member comes back on its port (see lib.sh)."""
    path = os.path.join(MEMBERS_DIR, f"m{n}.pid")
    with open(path) as file:
        pid = int(file.read())
    os.kill(pid, signal.SIGKILL)

    def replaced():
        with open(path) as file:
            text = file.read().strip()
        return text and int(text) != pid

    until(f"member {n} is started again", 10, replaced)
    until(f"member {n} is healthy again", 20, lambda: healthy(ENDPOINTS[n][1]))
