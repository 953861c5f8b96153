from __future__ import annotations

import subprocess
import sys

# 64 MB in pieces that glibc takes from its heap; the last one alone keeps all before it from going back.
CODE = """
from depthmask.export.memory import give_back
def held_mb():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
give_back()
before = held_mb()
pieces = [bytes(bytearray([1]) * 60_000) for _ in range(1000)]
last = bytes(bytearray([2]) * 60_000)
taken = held_mb() - before
del pieces
kept = held_mb() - before
give_back()
print(taken, kept, held_mb() - before)
"""


def test_what_is_freed_goes_back_to_the_system():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    taken, kept, after = map(float, done.stdout.split())
    assert taken > 55
    assert kept > 50  # what it is for: glibc keeps what was freed
    assert after < 10
