"""The discriminator's side of training: its bounded pull on the reconstruction, and how it learns."""

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from audiovae.config import TrainingConfig
from audiovae.spectrogram import Spectrogram
from audiovae.training import schedule
from audiovae.training.discriminator import Discriminator, discriminator_loss, feature_matching_loss
from audiovae.training.optimizer import step_if_finite

BETAS = (0.5, 0.9)
"""Adam's, as in most adversarial training: the other side moves, so old gradients soon mislead."""

Features = list[Float[Tensor, "batch ..."]]


class Comparison(nn.Module):
    """Features of recorded and decoded spectrograms in one call, which is what data-parallel wrapping needs."""

    def __init__(self, discriminator: Discriminator) -> None:
        super().__init__()
        self.discriminator = discriminator

    def forward(self, recorded: Tensor, decoded: Tensor) -> tuple[Features, Features]:
        """Returns the features of each, the logits last."""
        return self.discriminator(recorded), self.discriminator(decoded)


class Adversary:
    """A discriminator with its optimizer. It joins at ``adversarial_start_step``; before, it changes nothing."""

    def __init__(self, training: TrainingConfig, spectrogram: Spectrogram, accelerator: Accelerator) -> None:
        self.training, self.accelerator = training, accelerator
        self.discriminator = Discriminator(spectrogram).to(accelerator.device)
        rate = training.discriminator_learning_rate
        self.optimizer = torch.optim.Adam(self.discriminator.parameters(), lr=rate, betas=BETAS)
        self._comparison = accelerator.prepare_model(Comparison(self.discriminator))
        self._losses: dict[str, Tensor] = {}

    def joined(
        self,
        total: Float[Tensor, ""],
        reconstruction: Float[Tensor, "batch 1 n_bands frames"],
        target: Float[Tensor, "batch 1 n_bands frames"],
        *,
        step: int,
    ) -> Float[Tensor, ""]:
        """The loss for the backward pass: ``total``, and from the start step on a term with the adversarial gradient.

        The discriminator makes a step of its own.
        """
        if step < self.training.adversarial_start_step:
            return total
        decoded = reconstruction.detach().requires_grad_()
        with self.accelerator.autocast():
            true, made = self._comparison(target, decoded)
        fooling, matching = -made[-1].float().mean(), feature_matching_loss(true[:-1], made[:-1])
        asked = fooling + self.training.feature_matching_weight * matching
        (adversarial,) = torch.autograd.grad(asked, decoded, retain_graph=True)
        (wanted,) = torch.autograd.grad(total, reconstruction, retain_graph=True)
        share = schedule.adversarial_weight(step, self.training)
        gradient = balanced_gradient(adversarial, wanted, share=share, accelerator=self.accelerator)
        self._learn(discriminator_loss(true[-1], made[-1]), fooling, matching)
        return total + (gradient * reconstruction).sum()

    def figures(self) -> dict[str, float]:
        """Losses of the last step, for the log; empty before the discriminator joins."""
        return {name: float(loss) for name, loss in self._losses.items()}

    def _learn(self, loss: Tensor, fooling: Tensor, matching: Tensor) -> None:
        self.accelerator.backward(loss)
        step_if_finite([self.optimizer], self.discriminator, clip=self.training.gradient_clip)
        self._losses = {
            "discriminator": loss.detach(),
            "adversarial": fooling.detach(),
            "feature_matching": matching.detach(),
        }


def balanced_gradient(
    adversarial: Float[Tensor, "batch 1 n_bands frames"],
    wanted: Float[Tensor, "batch 1 n_bands frames"],
    *,
    share: float,
    accelerator: Accelerator,
) -> Float[Tensor, "batch 1 n_bands frames"]:
    """The adversarial gradient, scaled to ``share`` times the norm of the reconstruction losses', both at the
    reconstruction (Esser et al., 2021, VQGAN; per step as in Défossez et al., 2022, EnCodec).

    Norms are over the batches of all processes. Zero where there is no finite one, so that a discriminator gone wrong
    pulls at nothing.
    """
    squares = torch.stack([adversarial.square().sum(), wanted.square().sum()])
    ours, theirs = torch.as_tensor(accelerator.reduce(squares, "sum")).sqrt()
    scaled = adversarial * (share * theirs / ours)
    return torch.where(ours.isfinite() & (ours > 0), scaled, 0.0)
