"""The kinds of values that diffusion systems exchange, and the protocols of their parts.

Letters in shapes: B batch, C channels, H W height and width, L tokens, D P features; `...` is any number of
dimensions: C H W for pictures, C F H W for film, D for a vector. Imports no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Protocol

from ..authoring import Bound, Fact, Kind

if TYPE_CHECKING:
    from torch import Tensor
else:

    class Tensor:
        """Stands for torch.Tensor, so that reading annotations needs no torch."""


Sample = Annotated[Tensor, Kind("Sample")]  # x_t, what a sampler moves from noise to data
Image = Annotated[Tensor, Kind("Image", of="Sample")]  # pixels, float [B, 3, H, W] in [-1, 1]
Noise = Annotated[Tensor, Kind("Noise")]  # unit normal, or scaled by noise_scale
Mask = Annotated[Tensor, Kind("Mask")]  # float [B, 1, H, W]; 1 (white) is repainted, 0 is kept
Output = Annotated[Tensor, Kind("Output")]  # what a network predicts: epsilon, x_0 or v
Score = Annotated[Tensor, Kind("Score")]  # [B], to be made large: what guidance by a gradient climbs
Loss = Annotated[Tensor, Kind("Loss")]  # to be made small: a scalar, or [B], one an image
Weight = Annotated[Tensor, Kind("Weight")]  # [B], one factor an image, for a loss; or [1], the same for all
AnyTimestep = Annotated[int | float | Tensor, Kind("AnyTimestep")]  # a Timestep, or -1 for data: where a step ends
Timestep = Annotated[
    int | float | Tensor, Kind("Timestep", of="AnyTimestep")
]  # training index 0..T-1: one for all, or [B]
Steps = Annotated[int | str, Kind("Steps"), Bound(ge=1)]  # a count, or a respacing such as "fast27"
Condition = Annotated[Any, Kind("Condition")]  # a record of tensors with 1 or B rows, made by `model.condition`
State = Annotated[Any, Kind("State")]  # what a solver remembers between steps


UNSCALED = Fact(scaled="no", derivative="no")  # as the solver keeps it
SCALED = Fact(scaled="yes", derivative="no", level="noisy")  # as the model sees it, made by `scheduler.scale_input`
CLEAN = Fact(level="clean")  # x_0
NOISY = Fact(level="noisy")  # x_t, made by `scheduler.add_noise`
UNDERWAY = Fact(scaled="no", derivative="no", level="noisy")  # x_t of a solver's step: no picture, no gradient
FACTOR = Fact(quantity="factor")  # a number to multiply by, not an index, a count or a noise level
SPACE = Fact(space="?space")  # pixels, or the latents of one autoencoder: the same in all ports of one use

LATENTS = "latent of $latent_channels channels, scale $scaling_factor"  # the space of an autoencoder with this config
LATENT_SPACE = f"vae/config.json vqvae/config.json:{LATENTS}|pixel"  # of a denoiser, by its repository's autoencoder


class RngState(NamedTuple):
    """One random stream an image. `states` [B, S] uint8: the state of a CPU torch.Generator for each."""

    states: Annotated[Tensor, Kind("RngBytes"), "B S"]


Rng = Annotated[RngState, Kind("Rng", once=True), "B"]


class Tokens(NamedTuple):
    """Token ids of texts, padded. `ids` [B, L] int64; `mask` [B, L] bool, True where a token is real."""

    ids: Annotated[Tensor, Kind("TokenIds"), "B L"]
    mask: Annotated[Tensor, Kind("TokenMask"), "B L"]


class TextEmbeds(NamedTuple):
    """What a text encoder gives. `hidden`: one row a token, padding too; `mask` [B, L] bool, True where a token is
    real; `pooled`: one row a text, where the encoder has it.
    """

    hidden: Annotated[Tensor, Kind("TextHidden"), "B L D"]
    mask: Annotated[Tensor, Kind("TokenMask"), "B L"]
    pooled: Annotated[Tensor, Kind("TextPooled"), "B P"] | None = None


class Prediction(NamedTuple):
    """What a denoiser gives. `value`: epsilon, x_0 or v; `variance`: raw output, about [-1, 1], where it is learned."""

    value: Annotated[Output, "B ..."]
    variance: Annotated[Output, "B ..."] | None = None


class Step(NamedTuple):
    """One step of a schedule.

    `index` is its place in the whole schedule of `count` steps, from 0 (image to image starts later); `timestep` is
    what the model sees; `next` is where the step ends, -1 for data (-inf where timesteps are log(sigma) / 4). `sigma`
    is the noise level there, sqrt(1 - alpha_cumprod) / sqrt(alpha_cumprod), and `next_sigma` the one where it ends, 0
    for data: solvers of the probability flow work in these.
    """

    index: Annotated[int, Fact(quantity="index")]  # type: ignore[assignment]  # hides tuple.index
    timestep: Timestep
    next: Annotated[int | float, Kind("NextTimestep", of="AnyTimestep")]
    count: Annotated[int, Fact(quantity="count")]  # type: ignore[assignment]  # hides tuple.count
    sigma: Annotated[float, Fact(quantity="sigma")]
    next_sigma: Annotated[float, Fact(quantity="sigma")]


class Started(NamedTuple):
    """What a solver starts from."""

    sample: Annotated[Sample, "B ...", UNSCALED]
    state: State


class Stepped(NamedTuple):
    """What a solver's step gives."""

    sample: Annotated[Sample, "B ...", UNSCALED]
    state: State
    rng: Annotated[Rng, "B"]


class DrawnTimesteps(NamedTuple):
    """`timestep` [B], as the model sees it: int64, or float32 in continuous time; and the streams after drawing them."""

    timestep: Annotated[Timestep, "B"]
    rng: Annotated[Rng, "B"]


class Denoiser(Protocol):
    """A model that sees a noisy sample and predicts noise, data or velocity."""

    sample_shape: list[int]

    def __call__(
        self,
        sample: Annotated[Sample, "B ...", SPACE, SCALED],
        timestep: Timestep,
        condition: Annotated[Condition, "B", Fact(model="@self")] | None = None,
    ) -> Annotated[Prediction, "B ...", Fact(space="?space", prediction="?prediction", schedule="?schedule")]: ...


class Scheduler(Protocol):
    """A noise schedule and the solver that walks it. All six are always called; one not needed is the identity."""

    def schedule(
        self, steps: Steps, strength: Annotated[float, Bound(ge=0, le=1)] = 1.0
    ) -> Annotated[list[Step], Fact(scheduler="@self")]: ...

    def start(
        self,
        noise: Annotated[Noise, "B ..."],
        schedule: Annotated[list[Step], Fact(scheduler="@self")],
        sample: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Started, "B ...", SPACE, Fact(scheduler="@self")]: ...

    def scale_input(
        self, sample: Annotated[Sample, "B ...", SPACE, UNDERWAY], step: Annotated[Step, Fact(scheduler="@self")]
    ) -> Annotated[Sample, "B ...", SPACE, SCALED]: ...

    def original(
        self,
        prediction: Annotated[Prediction, "B ...", SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
    ) -> Annotated[Sample, "B ...", SPACE, CLEAN]: ...

    def step(
        self,
        prediction: Annotated[Prediction, "B ...", SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
        state: Annotated[State, Fact(scheduler="@self")],
        rng: Annotated[Rng, "B"],
        original: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Stepped, "B ...", SPACE, Fact(scheduler="@self")]: ...

    def add_noise(
        self, sample: Annotated[Sample, "B ...", SPACE, CLEAN], noise: Annotated[Noise, "B ..."], timestep: AnyTimestep
    ) -> Annotated[Sample, "B ...", SPACE, NOISY]: ...
