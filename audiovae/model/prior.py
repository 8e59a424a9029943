"""p(z): a Gaussian over whole sequences of latents, coherent in time, to draw new sounds from.

A sequence has a centre, and moves around it as a stationary first-order vector autoregression:

    x_t = m + u_t,    m ~ N(mean, between),    u_t = A u_{t-1} + e_t,    e_t ~ N(0, W - A W A')

W = E[u_t u_t'] is the same at all t, so sequences of any length stay where the data are. ``mean``, ``between``,
A (``transition``) and W (``within``) are fitted to encoded segments. The covariance of frames that lie k apart is
between + A^k W; with mean 0, between 0, A 0 and W = I it is the N(0, I) of the VAE, frame by frame.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

MAX_RADIUS = 0.99
"""Largest spectral radius of the transition: sequences forget where they were within some 100 frames."""
RIDGE = 1e-3
"""Share of each channel's variance that is added to the regression's diagonal, against noise and singularity."""
ITERATIONS, SETTLED = 50, 1e-3
"""Of the bias correction, at most; and the relative change that ends it."""

Matrix = Float[Tensor, "latent_channels latent_channels"]


class Prior(nn.Module):
    """The prior of this module's formulas; buffers only, fitted in closed form rather than trained."""

    mean: Tensor
    between: Tensor
    transition: Tensor
    within: Tensor

    def __init__(self, latent_channels: int) -> None:
        """N(0, I) on each frame, until ``fit`` or ``load_state_dict`` gives it something better."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(latent_channels))
        self.register_buffer("between", torch.zeros(latent_channels, latent_channels))
        self.register_buffer("transition", torch.zeros(latent_channels, latent_channels))
        self.register_buffer("within", torch.eye(latent_channels))

    @classmethod
    def standard(cls, latent_channels: int) -> "Prior":
        """N(0, I) on each frame, alike and independent: what the KL pulls towards, and the control of ``fit``."""
        return cls(latent_channels)

    @classmethod
    def fit(cls, segments: Float[Tensor, "segments latent_channels latent_frames"]) -> "Prior":
        """Fits by moments (Yule-Walker), corrected for the shortness of the segments.

        Raises ValueError below 2 segments of 2 frames, and for values that are NaN or infinite.
        """
        count, latent_channels, latent_frames = segments.shape
        if count < 2 or latent_frames < 2:
            raise ValueError(f"segments {list(segments.shape)}: a prior needs at least 2 segments of 2 latent frames")
        if not segments.isfinite().all():
            raise ValueError("segments: NaN or infinite values")
        x = segments.detach().cpu().double()
        mean = x.mean((0, 2))
        transition, within, between = _fit_moments(x - mean[:, None])
        prior = cls(latent_channels)
        for name, value in {"mean": mean, "between": between, "transition": transition, "within": within}.items():
            getattr(prior, name).copy_(value)
        return prior

    def sample(
        self, latent_frames: int, *, count: int, generator: torch.Generator
    ) -> Float[Tensor, "count latent_channels latent_frames"]:
        """Draws ``count`` sequences, on the CPU in double precision: every device gives the same ones.

        Noise is drawn frame by frame, so that a longer sequence starts like a shorter one of the same generator.
        """
        mean, between, transition, within = (
            getattr(self, name).detach().cpu().double() for name in ("mean", "between", "transition", "within")
        )
        step = _root(within - transition @ within @ transition.mT)

        def noise() -> Tensor:
            return torch.randn(count, len(mean), generator=generator, device=generator.device).cpu().double()

        centre = mean + noise() @ _root(between)
        around = [noise() @ _root(within)]
        while len(around) < latent_frames:
            around.append(around[-1] @ transition.mT + noise() @ step)
        return (centre[:, :, None] + torch.stack(around, dim=2)).to(self.mean)


def _fit_moments(x: Float[Tensor, "segments latent_channels latent_frames"]) -> tuple[Matrix, Matrix, Matrix]:
    """Transition, within and between, of segments whose overall mean is 0.

    Deviations from a segment's own mean are too small and too little alike: the mean follows the movement. With
    V the covariance that u's mean over F frames has, and S the sum of its covariances at lags 0 to F - 1,

        E[W0] = W - V
        E[W1] = (F - 1) / F (A W + V) - 2 V + 2 S' / F^2       (W1: sum over the F - 1 pairs, divided by F)
        E[covariance of the segments' means] = between + V

    which is solved by turns: A from the lags, V and S from A, the lags from V and S. Without it the memory of
    16-frame segments comes out half as long.
    """
    count, _, frames = x.shape
    centres = x.mean(2)
    u = x - centres[:, :, None]
    of_centres = centres.mT @ centres / count
    lag0 = torch.einsum("sct,sdt->cd", u, u) / (count * frames)
    lag1 = torch.einsum("sct,sdt->cd", u[:, :, 1:], u[:, :, :-1]) / (count * frames)
    within, next_to_it, between = lag0, lag1, of_centres
    for _ in range(ITERATIONS):
        before = within
        transition = _regress(within, next_to_it)
        of_mean, sum_of_lags = _covariance_of_mean(transition, within, frames)
        between = _positive(of_centres - of_mean)
        of_mean = of_centres - between  # no more than the segments' means vary at all
        within = lag0 + of_mean
        corrected = lag1 + 2 * of_mean - 2 * sum_of_lags.mT / frames**2
        next_to_it = frames / (frames - 1) * corrected - of_mean
        if (within - before).norm() < SETTLED * within.norm():
            break
    return _regress(within, next_to_it), within, between


def _regress(within: Matrix, next_to_it: Matrix) -> Matrix:
    """The transition A of A within = next_to_it, with a ridge, made stable where it is not."""
    variance = within.diagonal()
    ridge = (RIDGE * variance).clamp_min(1e-9 * float(variance.mean()) + 1e-12)
    transition = torch.linalg.solve(within + ridge.diag(), next_to_it, left=False)
    radius = torch.linalg.eigvals(transition).abs().max()
    return transition * (MAX_RADIUS / radius).clamp(max=1.0)


def _covariance_of_mean(transition: Matrix, within: Matrix, frames: int) -> tuple[Matrix, Matrix]:
    """Covariance of the mean of ``frames`` neighbours, and the sum of the covariances at all their lags."""
    lag = total = within
    weighted = frames * within
    for distance in range(1, frames):
        lag = transition @ lag
        total = total + lag
        weighted = weighted + (frames - distance) * (lag + lag.mT)
    return weighted / frames**2, total


def _positive(matrix: Matrix) -> Matrix:
    """The nearest covariance: symmetric, without negative eigenvalues."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp_min(0)) @ vectors.mT


def _root(matrix: Matrix) -> Matrix:
    """The symmetric root of a covariance; one that is singular, or that rounding made negative, has one too."""
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.mT
