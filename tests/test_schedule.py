"""Schedules at known steps, and that they have no jumps."""

from itertools import pairwise

import pytest

from audiovae.config import TrainingConfig
from audiovae.training import schedule

TRAINING = TrainingConfig(
    steps=1000, warmup_steps=100, learning_rate=1e-3, final_learning_rate=1e-5, beta=1e-2, beta_start=1e-6,
    beta_warmup_steps=400, ema_decay=0.99,
)  # fmt: skip


@pytest.mark.parametrize(
    ("step", "expected"),
    [(0, 1e-5), (49, 5e-4), (99, 1e-3), (100, 1e-3), (550, (1e-3 + 1e-5) / 2), (1000, 1e-5), (5000, 1e-5)],
)
def test_learning_rate_at_known_steps(step: int, expected: float) -> None:
    assert schedule.learning_rate(step, TRAINING) == pytest.approx(expected, rel=1e-12)


def test_learning_rate_rises_then_falls_without_jumps() -> None:
    rates = [schedule.learning_rate(step, TRAINING) for step in range(1001)]
    differences = [after - before for before, after in pairwise(rates)]
    assert all(difference > 0 for difference in differences[:99])
    assert all(difference <= 0 for difference in differences[100:])
    assert max(map(abs, differences)) < 1.1e-5  # a warm-up step is 1e-5


def test_without_warmup_the_first_step_has_the_full_rate() -> None:
    assert schedule.learning_rate(0, TrainingConfig(warmup_steps=0, learning_rate=3e-4)) == 3e-4


def test_a_warmup_longer_than_the_run_never_divides_by_zero() -> None:
    assert schedule.learning_rate(9, TrainingConfig(steps=10, warmup_steps=20, learning_rate=2e-4)) == pytest.approx(
        1e-4
    )


@pytest.mark.parametrize(("step", "expected"), [(0, 1e-6), (100, 1e-5), (200, 1e-4), (400, 1e-2), (999, 1e-2)])
def test_beta_is_a_straight_line_of_decades(step: int, expected: float) -> None:
    assert schedule.beta(step, TRAINING) == pytest.approx(expected, rel=1e-9)


def test_beta_has_no_jump_at_the_end_of_its_ramp() -> None:
    assert schedule.beta(399, TRAINING) == pytest.approx(schedule.beta(400, TRAINING), rel=0.03)


def test_a_beta_of_zero_has_no_ramp() -> None:
    assert [schedule.beta(step, TrainingConfig(beta=0.0)) for step in (0, 10, 5000)] == [0, 0, 0]


def test_average_forgets_the_start_and_then_has_its_own_decay() -> None:
    assert schedule.ema_decay(0, TRAINING) == 0.1
    assert schedule.ema_decay(90, TRAINING) == 0.91
    assert schedule.ema_decay(5000, TRAINING) == 0.99


ADVERSARIAL = TrainingConfig(
    steps=1000, adversarial_weight=0.6, adversarial_start_step=200, adversarial_warmup_steps=100
)


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 0), (199, 0), (200, 0), (201, 0.006), (250, 0.3), (300, 0.6), (999, 0.6)]
)
def test_the_discriminators_weight_is_a_straight_line_from_its_start(step: int, expected: float) -> None:
    assert schedule.adversarial_weight(step, ADVERSARIAL) == pytest.approx(expected, rel=1e-12)


def test_without_a_ramp_the_discriminator_has_its_weight_from_its_start() -> None:
    training = TrainingConfig(adversarial_weight=0.6, adversarial_start_step=200, adversarial_warmup_steps=0)
    assert [schedule.adversarial_weight(step, training) for step in (199, 200)] == [0, 0.6]
