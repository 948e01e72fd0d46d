"""This file tests the readers of energy sensors on made-up trees of files, and what is said where there are none."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dwindle.bench.energy import zeus
from dwindle.bench.energy.find import find_sensors
from dwindle.bench.energy.hwmon import Integral, rails
from dwindle.bench.energy.powercap import Counter, Rapl, rapl, zones
from dwindle.errors import MeasurementError
from dwindle.runtimes.fake import FakeClock

RANGE = 262_143_328_850


def write(root: Path, files: dict[str, object]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n", encoding="utf-8")
    return root


def zone(number: str, name: str, energy: int = 0) -> dict[str, object]:
    folder = f"sys/class/powercap/intel-rapl:{number}"
    return {f"{folder}/name": name, f"{folder}/energy_uj": energy, f"{folder}/max_energy_range_uj": RANGE}


def test_packages_and_memory_are_added_and_what_is_inside_a_package_is_not(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        zone("0", "package-0", 1_000_000) | zone("0:0", "core", 5) | zone("0:1", "dram", 7) | zone("1", "package-1")
        | zone("2", "psys"),
    )  # fmt: skip
    sensor = rapl(root)
    assert sensor is not None
    assert sensor.name == "RAPL package-0 + dram + package-1"
    assert sensor.covers == "the processor packages and memory"
    with sensor.opened() as joules:
        assert joules() == 0
        write(root, {"sys/class/powercap/intel-rapl:0/energy_uj": 3_500_000})
        write(root, {"sys/class/powercap/intel-rapl:0:1/energy_uj": 500_007})
        assert joules() == pytest.approx(3.0)
        assert joules() == pytest.approx(3.0)


@given(start=st.integers(0, RANGE - 1), spent=st.lists(st.integers(0, RANGE - 1), max_size=6))
def test_a_counter_that_starts_again_loses_nothing(
    start: int, spent: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "energy_uj"
    path.write_text(str(start), encoding="utf-8")
    sensor = Rapl(counters=(Counter(path=path, range_uj=RANGE),), domains=("package-0",))
    total = 0
    with sensor.opened() as joules:
        for step in spent:
            total += step
            path.write_text(str((start + total) % RANGE), encoding="utf-8")
            assert joules() == pytest.approx(total * 1e-6, rel=1e-9, abs=1e-9)


def test_counters_without_a_package_or_without_access_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert rapl(tmp_path) is None
    assert rapl(write(tmp_path / "memory", zone("0", "dram"))) is None
    root = write(tmp_path / "closed", zone("0", "package-0"))
    monkeypatch.setattr("dwindle.bench.energy.powercap.os.access", lambda *_: False)
    assert rapl(root) is None
    assert len(zones(root)) == 1


def test_a_counter_that_vanishes_is_one_clear_error(tmp_path: Path) -> None:
    root = write(tmp_path, zone("0", "package-0"))
    sensor = rapl(root)
    assert sensor is not None
    with sensor.opened() as joules:
        (root / "sys/class/powercap/intel-rapl:0/energy_uj").write_text("nothing", encoding="utf-8")
        with pytest.raises(MeasurementError, match="says 'nothing' and no number"):
            joules()
        (root / "sys/class/powercap/intel-rapl:0/energy_uj").unlink()
        with pytest.raises(MeasurementError, match="cannot be read"):
            joules()


def test_rails_tell_energy_or_power_or_voltage_and_current(tmp_path: Path) -> None:
    folder = "sys/class/hwmon"
    root = write(
        tmp_path,
        {
            f"{folder}/hwmon0/name": "ina219",
            f"{folder}/hwmon0/update_interval": 20,
            f"{folder}/hwmon0/power1_input": 2_500_000,
            f"{folder}/hwmon0/power1_label": "VDD_IN",
            f"{folder}/hwmon1/name": "ina3221",
            f"{folder}/hwmon1/in1_input": 5_000,
            f"{folder}/hwmon1/in1_label": "VDD_CPU",
            f"{folder}/hwmon1/curr1_input": 400,
            f"{folder}/hwmon1/curr2_input": 400,
            f"{folder}/hwmon2/name": "amd_energy",
            f"{folder}/hwmon2/energy1_input": 8_000_000,
            f"{folder}/hwmon2/energy1_label": "Esocket0",
            f"{folder}/hwmon3/name": "amdgpu",
            f"{folder}/hwmon3/power1_input": 9_000_000,
            f"{folder}/hwmon4/name": "ina226",
            f"{folder}/hwmon4/power1_input": "",
        },
    )
    found = rails(root)
    assert [rail.name for rail in found] == ["ina219 VDD_IN", "ina3221 VDD_CPU", "amd_energy Esocket0"]
    assert found[0].watts() == pytest.approx(2.5)
    assert found[0].update_seconds == pytest.approx(0.02)
    assert found[1].watts() == pytest.approx(2.0)
    with found[2].opened() as joules:
        before = joules()
        write(root, {f"{folder}/hwmon2/energy1_input": 9_000_000})
        assert joules() - before == pytest.approx(1.0)


@pytest.mark.parametrize("driver", ["i915", "xe", "amdgpu", "nouveau"])
def test_the_energy_of_a_graphics_card_is_none_of_ours(driver: str, tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon3"
    assert rails(write(tmp_path, {f"{folder}/name": driver, f"{folder}/energy1_input": 9_000_000})) == ()


def test_cores_are_part_of_their_socket_and_rails_stand_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = "sys/class/hwmon"
    labels = ["Ecore000", "Ecore001", *[f"Esocket{i}" for i in range(9)]]
    files: dict[str, object] = {f"{folder}/hwmon10/name": "amd_energy", f"{folder}/hwmon2/name": "ina219"}
    files[f"{folder}/hwmon2/power1_input"] = 1
    for number, label in enumerate(labels, start=1):
        files[f"{folder}/hwmon10/energy{number}_input"] = 1
        files[f"{folder}/hwmon10/energy{number}_label"] = label
    names = [rail.name for rail in rails(write(tmp_path, files))]
    assert names == ["ina219 1", *[f"amd_energy {label}" for label in labels[2:]]]


def test_power_is_summed_up_over_time_as_a_straight_line_between_readings() -> None:
    clock, watts = FakeClock(), [2.0]
    integral = Integral(lambda: watts[0], clock)
    clock.advance(3.0)
    assert integral.read() == pytest.approx(6.0)
    clock.advance(2.0)
    watts[0] = 4.0
    assert integral.read() == pytest.approx(6.0 + 2.0 * 3.0)


def test_a_rail_without_a_counter_is_read_by_a_thread_that_ends(tmp_path: Path) -> None:
    folder = "sys/class/hwmon/hwmon0"
    files: dict[str, object] = {f"{folder}/name": "ina219", f"{folder}/power1_input": 1_000_000}
    (rail,) = rails(write(tmp_path, files | {f"{folder}/update_interval": 1}))
    start = time.perf_counter()
    with rail.opened() as joules:
        time.sleep(0.02)
        spent = joules()
    assert 0 < spent <= time.perf_counter() - start


def test_a_power_that_could_not_be_read_for_a_while_is_an_error_and_no_wrong_integral() -> None:
    answers = iter([1.0, *[None] * 4, *[1.0] * 100])
    ended = threading.Event()

    def watts() -> float:
        if (answer := next(answers)) is None:
            raise MeasurementError("the sensor is away")
        return answer

    integral = Integral(watts, FakeClock())
    integral.keep_reading(ended, 0.0)  # returns of itself: four readings in a row failed
    with pytest.raises(MeasurementError, match=r"its joules are not known \(the sensor is away\)"):
        integral.read()  # though the sensor answers again


def test_a_reading_that_fails_is_tried_again() -> None:
    clock, ended = FakeClock(), threading.Event()
    answers = iter([2.0, None, None, None, 4.0])

    def watts() -> float:
        clock.advance(1.0)
        if (answer := next(answers)) is None:
            raise MeasurementError("the sensor is away")
        if answer == 4.0:
            ended.set()
        return answer

    integral = Integral(watts, clock)
    integral.keep_reading(ended, 0.0)
    answers = iter([4.0])
    assert integral.read() == pytest.approx(4 * 3.0 + 4.0)


def test_the_processor_comes_first_and_a_machine_without_sensors_has_none(tmp_path: Path) -> None:
    assert find_sensors(tmp_path) == zeus.zeus_sensors()
    folder = "sys/class/hwmon/hwmon0"
    files: dict[str, object] = {f"{folder}/name": "ina219", f"{folder}/power1_input": 1}
    names = [sensor.name for sensor in find_sensors(write(tmp_path, files | zone("0", "package-0")))]
    assert names[0] == "RAPL package-0"
    assert names[-1] == "ina219 1"


def test_what_zeus_cannot_read_is_one_clear_error() -> None:
    def broken() -> float:
        raise RuntimeError("no permission")

    sensor = zeus.ZeusSensor(name="card", covers="a card", update_seconds=0.1, millijoules=lambda: broken)
    with pytest.raises(MeasurementError, match="card cannot be read: no permission"), sensor.opened():
        pass
    fine = zeus.ZeusSensor(name="card", covers="a card", update_seconds=0.1, millijoules=lambda: lambda: 2_500.0)
    with fine.opened() as joules:
        assert joules() == pytest.approx(2.5)


def test_without_zeus_its_sensors_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dwindle.bench.energy.zeus.importlib.util.find_spec", lambda _: None)
    assert zeus.zeus_sensors(with_gpus=True) == ()
    assert zeus.unavailable() == "the package zeus is missing: pip install 'dwindle[energy]'"
