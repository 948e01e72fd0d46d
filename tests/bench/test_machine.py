"""This file tests the description of a machine."""

from __future__ import annotations

import json
import os

from dwindle.bench.machine import Machine, this_machine


def test_this_machine_is_described() -> None:
    machine = this_machine()
    assert machine.cpu
    assert 1 <= machine.n_cores <= (os.cpu_count() or 1)
    assert {"torch", "numpy"} <= machine.packages.keys()
    plain = json.loads(json.dumps(machine.to_plain()))
    assert plain["torch"] == machine.packages["torch"]
    assert {"cpu", "n_cores", "memory_bytes", "os", "python"} <= plain.keys()
    assert "\n" not in machine.summary()
    assert machine.cpu in machine.summary()


def test_a_single_core_and_features_read_well() -> None:
    machine = Machine(cpu="X", cpu_features=("avx2",), n_cores=1, memory_bytes=2**30, os="Linux 6", python="3.11")
    assert machine.summary() == "X (avx2), 1 core, 1 GiB, Linux 6, Python 3.11"
