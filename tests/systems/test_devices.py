"""Runs what is in on_another_device.py, in a process of its own: a device that torch was told of stays for good."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_systems_work_on_another_device_as_on_the_cpu(which):
    place = Path(__file__).with_name("on_another_device.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", which, str(place)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout[-5000:] + ran.stderr[-2000:]
