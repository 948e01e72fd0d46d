from __future__ import annotations

import sys
import tracemalloc
from pathlib import Path

import pytest

from dwindle.container import parse, read
from dwindle.errors import ContainerError, HeaderError

sys.path.insert(0, str(Path(__file__).parents[2]))

from fuzz import forge
from fuzz.attacks import lies
from fuzz.fuzz_reader import fuzz, seeds

ATTACKS = [pytest.param(attack, id=attack.__name__) for attack in lies.ATTACKS]


@pytest.mark.parametrize("attack", ATTACKS)
def test_attack_is_refused(attack):
    data = attack()
    tracemalloc.start()
    try:
        with pytest.raises(ContainerError, match=r"."):
            parse(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 << 20, "an attack must not make the reader allocate"


def test_there_are_attacks():
    assert len(lies.ATTACKS) > 40


@pytest.mark.parametrize("attack", [lies.a_terabyte_of_weights, lies.a_terabyte_in_many_tensors])
def test_a_terabyte_is_refused_by_the_header(attack, tmp_path):
    path = tmp_path / "m.dwn"
    path.write_bytes(attack())
    with pytest.raises(HeaderError, match=r"exceeds the limit|promises more|must be a whole number"):
        read(path)


def test_forged_files_are_read_when_they_do_not_lie():
    data = forge.forge(forge.header(forge.tensor(forge.dense())), bytes(16))
    assert parse(data).state_dict()["w"].tolist() == [0.0] * 4
    data = forge.forge(forge.header(forge.tensor(forge.affine())), bytes(12))
    assert parse(data).state_dict()["w"].shape == (4,)


def test_fuzzer_finds_nothing_in_a_second():
    assert fuzz(seconds=1.0, seed=1) > 100


def test_seeds_are_readable():
    assert all(parse(seed).state_dict() for seed in seeds())
