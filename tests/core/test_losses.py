"""This file tests the divergence between two networks' answers against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.losses import divergence
from dwindle.errors import DataError


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 20), n_classes=st.integers(2, 7))
def test_it_is_the_mean_over_examples_of_the_sum_over_classes(seed, temperature, n_classes):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 3 * torch.randn((2, 5, n_classes), generator=generator, dtype=torch.float64)
    p, q = ((logits / temperature).softmax(1) for logits in (teacher, student))
    expected = (p * (p / q).log()).sum(1).mean()
    found = divergence(student, teacher, temperature=temperature)
    assert float(found) == pytest.approx(float(expected), rel=1e-3, abs=1e-5)
    assert float(found) >= -1e-6


def test_only_the_student_gets_a_gradient_and_equal_answers_give_none():
    teacher = torch.randn(4, 3)
    student = teacher.clone().requires_grad_()
    divergence(student, teacher, temperature=2.0).backward()
    assert student.grad is not None
    assert float(student.grad.abs().max()) < 1e-6


@pytest.mark.parametrize(("student", "teacher"), [((4, 3), (4, 2)), ((4, 3), (3, 3)), ((4,), (4,))])
def test_other_shapes_are_refused(student, teacher):
    with pytest.raises(DataError, match="scores"):
        divergence(torch.zeros(student), torch.zeros(teacher), temperature=1.0)
