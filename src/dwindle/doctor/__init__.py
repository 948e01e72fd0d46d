"""This package examines an installation and its machine: what is broken, and what will make timings noisy."""

from dwindle.doctor.examine import examine as examine
