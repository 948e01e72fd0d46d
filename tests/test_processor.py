"""This file tests what is read of a processor."""

from __future__ import annotations

from dwindle.processor import BF16, FEATURES, INT8, VNNI, parse_cpuinfo, this_processor


def test_features_of_an_arm_processor_are_read_in_our_order() -> None:
    text = (
        "processor\t: 0\nFeatures\t: fp i8mm asimddp asimd\n\nprocessor\t: 1\nFeatures\t: fp\nModel\t: Raspberry Pi 5\n"
    )
    assert parse_cpuinfo(text) == ("Raspberry Pi 5", ("asimd", "asimddp", "i8mm"))
    assert parse_cpuinfo("") == ("", ())


def test_what_is_looked_for_is_what_is_read() -> None:
    assert set(FEATURES) >= VNNI.union(INT8, BF16)
    assert set(this_processor().features) <= set(FEATURES)
