"""Runs what is in on_another_device.py, in a process of its own: a device that torch was told of stays for good."""

import subprocess
import sys
from pathlib import Path


def test_systems_work_on_another_device_as_on_the_cpu():
    place = Path(__file__).with_name("on_another_device.py")
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", str(place)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
