"""What is different on Windows and macOS, as far as it can be told on any system."""

import subprocess
import sys

WITHOUT_POSIX = """
import signal
import subprocess
import sys

sys.modules |= dict.fromkeys(("_posixsubprocess", "fcntl", "resource"))
for name in ("pthread_sigmask", "SIGHUP"):
    delattr(signal, name)
"""
"""Takes from an interpreter what Windows lacks, once subprocess has what it needs to start others."""


def as_on_windows(code: str, *words: object) -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_POSIX + code, *map(str, words)], check=True, timeout=120)


def test_children_start_where_signals_cannot_be_masked() -> None:
    as_on_windows("from audiovae.interrupts import children_deaf\nwith children_deaf():\n    pass\n")
