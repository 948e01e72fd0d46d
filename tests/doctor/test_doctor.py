"""This file tests the doctor on machines made of folders, and on this one."""

from __future__ import annotations

import json
import os
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from dwindle.bench.machine import Machine
from dwindle.cli.main import app
from dwindle.doctor import examine, machine_state, requirements, self_test
from dwindle.doctor.energy import check_energy
from dwindle.doctor.finding import Finding, Status, is_broken
from dwindle.doctor.requirements import Requirement, numbers
from dwindle.errors import SettingError

MACHINE = Machine(
    cpu="X", cpu_features=("avx2", "avx512_vnni"), n_cores=4, memory_bytes=8 << 30, os="Linux 6", python="3.11"
)


def put(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text)


# Packages


@pytest.mark.parametrize(
    ("bounds", "version", "is_allowed"),
    [
        (">=2.9,<2.14", "2.9", True),
        (">=2.9,<2.14", "2.13.9+cpu", True),
        (">=2.9,<2.14", "2.14.0", False),
        ("<2.14,>=2.9", "2.8.99", False),
        (">=2.0", "2", True),
        ("==1.1.414", "1.1.414", True),
        ("==2.*", "2.7", True),
        ("!=2.*", "2.7", False),
        ("~=1.4.2", "1.4.9", True),
        ("~=1.4.2", "1.5.0", False),
        ("", "0", True),
    ],
)
def test_ranges_of_versions(bounds: str, version: str, is_allowed: bool) -> None:
    assert Requirement(name="p", bounds=bounds).allows(version) is is_allowed


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_a_version_is_its_numbers(parts: list[int]) -> None:
    assert numbers(".".join(map(str, parts))) == tuple(parts)
    assert numbers(".".join(map(str, parts)) + "rc1") == tuple(parts)


def test_what_is_missing_or_outside_its_range_comes_with_the_command() -> None:
    needed = [Requirement.parse(text) for text in ("no-such-package<3,>=2", "numpy>=1000", "numpy>=1")]
    found = requirements.check_requirements(needed)
    assert [finding.status for finding in found] == [Status.BROKEN, Status.WARNING, Status.FINE]
    assert found[0].remedy == 'pip install "no-such-package<3,>=2"'
    assert found[1].fact == f"{metadata.version('numpy')} is outside >=1000"
    assert requirements.check_requirements([])[0].status is Status.WARNING


def test_extras_are_listed_with_what_they_lack() -> None:
    declared = [Requirement.parse(text) for text in ("numpy; extra == 'some'", "no-such-package; extra == 'some'")]
    (found,) = requirements.check_extras(declared)
    assert found.status is Status.FINE
    assert found.fact == "missing no-such-package: pip install 'dwindle[some]'"


def test_another_python_is_broken() -> None:
    assert requirements.check_python(">=3.11").status is Status.FINE
    assert requirements.check_python(">=99").status is Status.BROKEN


# The machine


@pytest.mark.parametrize(("average", "status"), [(0.1, Status.FINE), (1.9, Status.WARNING), (None, Status.FINE)])
def test_other_work_makes_timings_noisy(average: float | None, status: Status) -> None:
    found = machine_state.check_load(average, 4)
    assert found.status is status
    assert ("noisy" in found.fact) is (status is Status.WARNING)


def test_a_container_limits_processor_and_memory(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "0::/box/inner\n")
    put(tmp_path, "sys/fs/cgroup/box/cpu.max", "150000 100000\n")
    put(tmp_path, "sys/fs/cgroup/box/inner/cpu.max", "max 100000\n")
    put(tmp_path, "sys/fs/cgroup/box/inner/memory.max", f"{2 << 30}\n")
    cpu, memory = machine_state.check_limits(tmp_path, MACHINE)
    assert (cpu.status, cpu.fact[:17]) == (Status.WARNING, "1.50 of 4 cores: ")
    assert memory.fact == "2.0 GiB of 8.0 GiB may be used"


def test_the_older_control_groups_are_read_too(tmp_path: Path) -> None:
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", str(1 << 62))
    cpu, memory = machine_state.check_limits(tmp_path, MACHINE)
    assert cpu.fact.startswith("0.50 of 4 cores")
    assert memory.fact == "8.0 GiB"


def test_a_system_that_tells_nothing_is_fine(tmp_path: Path) -> None:
    found = [*machine_state.check_limits(tmp_path, MACHINE), machine_state.check_frequency(tmp_path),
             check_energy(tmp_path)]  # fmt: skip
    assert {finding.status for finding in found} == {Status.FINE}


@pytest.mark.parametrize(("governor", "status"), [("performance", Status.FINE), ("ondemand", Status.WARNING)])
def test_a_frequency_that_follows_the_load_is_a_warning(governor: str, status: Status, tmp_path: Path) -> None:
    for core in ("cpu0", "cpu1"):
        put(tmp_path, f"sys/devices/system/cpu/{core}/cpufreq/scaling_governor", f"{governor}\n")
    assert machine_state.check_frequency(tmp_path).status is status


def test_energy_counters_are_found(tmp_path: Path) -> None:
    put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "1")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/name", "package-0")
    assert check_energy(tmp_path).fact == "RAPL package-0 (the processor packages)"


def test_a_processor_without_int8_says_so() -> None:
    assert "avx512_vnni" in next(f.fact for f in machine_state.check_processor(MACHINE) if f.subject == "int8")
    plain = Machine(cpu="Y", cpu_features=("avx2",), n_cores=1, memory_bytes=1, os="o", python="p")
    assert "smaller gain" in next(f.fact for f in machine_state.check_processor(plain) if f.subject == "int8")
    unknown = Machine(cpu="Z", n_cores=1, memory_bytes=1, os="o", python="p")
    assert len(machine_state.check_processor(unknown)) == 2


def test_cores_that_this_process_may_not_use_are_said() -> None:
    assert machine_state.check_cores(MACHINE, 8).fact.startswith("4 of 8")
    assert machine_state.check_cores(MACHINE, 4).fact == "4"


def test_a_folder_that_is_not_there_is_broken(tmp_path: Path) -> None:
    (found,) = machine_state.check_folder(tmp_path / "absent")
    assert found.status is Status.BROKEN
    assert machine_state.check_folder(tmp_path)[0].status is Status.FINE
    assert not list(tmp_path.iterdir())


# Together


def test_a_finding_contradicts_itself_nowhere() -> None:
    with pytest.raises(SettingError, match="a remedy only where something is wrong"):
        Finding(subject="x", status=Status.FINE, fact="y", remedy="z")


def test_the_end_to_end_test_passes_here_and_reports_what_broke(monkeypatch: pytest.MonkeyPatch) -> None:
    assert self_test.check_end_to_end().status is Status.FINE
    monkeypatch.setattr(self_test, "_worst_parity", lambda: 7.0)
    assert "7.0 times as far" in self_test.check_end_to_end().fact

    def fail() -> float:
        raise ImportError("libgomp.so is absent\nand more")

    monkeypatch.setattr(self_test, "_worst_parity", fail)
    found = self_test.check_end_to_end()
    assert found.status is Status.BROKEN
    assert found.fact.endswith("ImportError: libgomp.so is absent")


def test_this_machine_is_examined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWINDLE_DATA", str(tmp_path))
    (tmp_path / "uci-har").mkdir()
    found = {finding.subject: finding for finding in examine(tmp_path, root=tmp_path, with_self_test=False)}
    assert found["data set uci-har"].fact == str(tmp_path / "uci-har")
    assert found["torch"].status is Status.FINE
    assert not is_broken(found.values())
    assert os.sep in found["Python"].fact


def test_the_exit_code_tells_broken_from_noisy(monkeypatch: pytest.MonkeyPatch) -> None:
    result = CliRunner().invoke(app, ["doctor", "--no-self-test", "--json"])
    assert result.exit_code == 0, result.output
    plain = json.loads(result.output)
    assert plain["is_broken"] is False
    assert {"subject", "status", "fact", "remedy"} == plain["findings"][0].keys()
    monkeypatch.setattr(requirements, "installed", lambda name: None)
    result = CliRunner().invoke(app, ["doctor", "--no-self-test"])
    assert result.exit_code == 1
    assert "FAIL  torch" in result.output


def test_counters_that_only_an_administrator_may_read_come_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "1")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/name", "package-0")
    monkeypatch.setattr("dwindle.bench.energy.powercap.os.access", lambda *_: False)
    found = check_energy(tmp_path)
    assert found.status is Status.WARNING
    assert "only an administrator may read them" in found.fact
    assert "chmod a+r" in found.remedy


def test_without_zeus_the_doctor_says_what_it_would_add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.bench.energy.zeus.importlib.util.find_spec", lambda _: None)
    told = "; for a Jetson's rails, the package zeus is missing: pip install 'dwindle[energy]'"
    assert check_energy(tmp_path).fact.endswith(told)
