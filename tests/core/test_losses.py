"""This file tests the divergence between two networks' answers against its definition."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dwindle.core.losses import divergence, mean_answer
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


@pytest.mark.parametrize(("student", "teacher"), [((4, 3), (4, 2)), ((4, 3), (3, 3)), ((4,), (4,)), ((4, 1), (4, 1))])
def test_other_shapes_are_refused(student, teacher):
    with pytest.raises(DataError, match="scores"):
        divergence(torch.zeros(student), torch.zeros(teacher), temperature=1.0)


@given(seed=st.integers(0, 1000), temperature=st.floats(0.5, 20), n=st.integers(1, 5), scale=st.floats(0.01, 50))
def test_the_mean_answer_softens_to_the_mean_of_the_softened_answers(seed, temperature, n, scale):
    generator = torch.Generator().manual_seed(seed)
    answers = tuple(scale * torch.randn((n, 4, 3, 2), generator=generator))
    found = (mean_answer(answers, temperature=temperature) / temperature).softmax(1)
    expected = torch.stack([(answer / temperature).softmax(1) for answer in answers]).mean(0)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert torch.isfinite(mean_answer(answers, temperature=temperature)).all()


def test_one_answer_is_its_own_mean_bit_for_bit():
    answer = torch.randn(4, 3)
    assert mean_answer((answer,), temperature=3.0) is answer


def test_answers_so_sure_that_probabilities_vanish_stay_finite():
    sure = torch.tensor([[1e4, -1e4, 0.0]])
    found = mean_answer((sure, -sure), temperature=1.0)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found.softmax(1), torch.tensor([[0.5, 0.5, 0.0]]))


@pytest.mark.parametrize("shapes", [(), ((4, 3), (4, 2)), ((4, 3), (3, 3))])
def test_answers_of_other_shapes_have_no_mean(shapes):
    with pytest.raises(DataError, match="same classes"):
        mean_answer([torch.zeros(shape) for shape in shapes], temperature=1.0)
