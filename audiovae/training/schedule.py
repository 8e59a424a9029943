"""Everything that changes over a run, as pure functions of the step: resuming needs no state of theirs."""

import math

from audiovae.config import TrainingConfig


def learning_rate(step: int, training: TrainingConfig) -> float:
    """Linear warm-up, then a cosine from ``learning_rate`` to ``final_learning_rate`` (Loshchilov & Hutter, 2017)."""
    if step < training.warmup_steps:
        return training.learning_rate * (step + 1) / training.warmup_steps
    progress = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return training.final_learning_rate + (training.learning_rate - training.final_learning_rate) * cosine


def beta(step: int, training: TrainingConfig) -> float:
    """Weight of the KL: a straight line on a logarithmic scale from ``beta_start`` to ``beta``, then constant."""
    if step >= training.beta_warmup_steps or training.beta <= training.beta_start:
        return training.beta
    progress = step / training.beta_warmup_steps
    return training.beta_start * (training.beta / training.beta_start) ** progress


def adversarial_weight(step: int, training: TrainingConfig) -> float:
    """What the discriminator asks for, relative to the reconstruction losses: a straight line from zero at the start
    step, when it knows nothing yet, to ``adversarial_weight``; then constant."""
    since, ramp = step - training.adversarial_start_step, training.adversarial_warmup_steps
    if since >= ramp:
        return training.adversarial_weight
    return training.adversarial_weight * since / ramp if since > 0 else 0.0


def ema_decay(step: int, training: TrainingConfig) -> float:
    """Decay of the moving average: short at first, so that the average forgets the random start."""
    return min(training.ema_decay, (1 + step) / (10 + step))
