"""What the schedulers of a discrete-time Gaussian process share: its config, x_0 from a prediction, and the training
side.

x_t = sqrt(alpha_cumprod_t) x_0 + sqrt(1 - alpha_cumprod_t) epsilon (Ho et al. 2020, arXiv:2006.11239, eq. 4). Imports
no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite, sqrt
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from ...authoring import Bound, Fact
from ...errors import PortError
from ..draw import normal, whole
from ..kinds import (
    CLEAN,
    NOISY,
    SCALED,
    SPACE,
    UNDERWAY,
    AnyTimestep,
    DrawnTimesteps,
    Noise,
    Output,
    Prediction,
    Rng,
    RngState,
    Sample,
    Started,
    Step,
    Steps,
    Timestep,
    Weight,
)
from .noise_schedule import (
    ZERO_SNR,
    BetaSchedule,
    PredictionType,
    Spacing,
    beta_table,
    dynamic_threshold,
    respaced_timesteps,
    spaced_timesteps,
    wide,
    zero_terminal_snr,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from torch import Tensor

    from .noise_schedule import Table

SCHEDULE = "$beta_schedule $beta_start $beta_end $num_train_timesteps"
PREDICTED = Fact(prediction="$prediction_type", schedule=SCHEDULE)
Weighting = Literal["constant", "min_snr", "min_snr_plus_one"]

# The published classes whose configs say this process in the same words, so that any scheduler reads them all.
_CLASSES = (
    "DDPMScheduler", "DDIMScheduler", "PNDMScheduler", "DEISMultistepScheduler", "LMSDiscreteScheduler",
    "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler", "HeunDiscreteScheduler", "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
)  # fmt: skip
# Keys of one of these solvers: another solver, given its config, passes over those that are no field of its own.
SOLVER_KEYS = frozenset(
    {
        "algorithm_type", "clip_sample", "clip_sample_range", "disable_corrector", "dynamic_thresholding_ratio", "eta",
        "euler_at_final", "final_sigmas_type", "flow_shift", "interpolation_type", "lambda_min_clipped",
        "lower_order_final", "predict_x0", "s_churn", "s_noise", "s_tmax", "s_tmin", "sample_max_value",
        "set_alpha_to_one", "shift_terminal", "sigma_max", "sigma_min", "skip_prk_steps", "solver_order", "solver_p",
        "solver_type", "thresholding", "time_shift_type", "timestep_type", "use_beta_sigmas", "use_clipped_model_output",
        "use_dynamic_shifting", "use_exponential_sigmas", "use_flow_sigmas", "use_karras_sigmas", "use_lu_lambdas",
        "variance_type",
    }
)  # fmt: skip


def published_as(first: str) -> tuple[str, ...]:
    """`published` of the scheduler whose own class this is: it writes that one, and reads them all."""
    return first, *(name for name in _CLASSES if name != first)


@dataclass(frozen=True)
class ProcessConfig:
    """The fields of a published scheduler_config.json that say the process, and which steps a count leads to.

    num_train_timesteps: T. beta_schedule, beta_start, beta_end, or the betas themselves in trained_betas: the noise
    schedule. rescale_betas_zero_snr: brings the last alpha_cumprod to 0. prediction_type: what the network's value is.
    timestep_spacing, steps_offset: where a count of steps leads. respaced: a count N is read as the respacing "N" of
    OpenAI's process, and spacing and offset are not used.
    """

    num_train_timesteps: Annotated[int, Bound(ge=1, le=100_000)] = 1000
    beta_start: Annotated[float, Bound(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Bound(gt=0, lt=1)] = 0.02
    beta_schedule: BetaSchedule = "linear"
    trained_betas: tuple[Annotated[float, Bound(gt=0, le=1)], ...] | None = None
    rescale_betas_zero_snr: bool = False
    prediction_type: PredictionType = "epsilon"
    timestep_spacing: Spacing = "leading"
    steps_offset: Annotated[int, Bound(ge=0)] = 0
    respaced: bool = False


@dataclass(frozen=True)
class Thresholding(ProcessConfig):
    """Dynamic thresholding of x_0: at the quantile dynamic_thresholding_ratio, between 1 and sample_max_value."""

    thresholding: bool = False
    dynamic_thresholding_ratio: Annotated[float, Bound(ge=0, le=1)] = 0.995
    sample_max_value: Annotated[float, Bound(ge=1)] = 1.0


@dataclass(frozen=True)
class Clipping(ProcessConfig):
    """clip_sample: x_0 is clipped to +-clip_sample_range."""

    clip_sample: bool = True
    clip_sample_range: Annotated[float, Bound(gt=0)] = 1.0


@dataclass(frozen=True)
class DiffusionConfig(Clipping, Thresholding):
    """The fields of a process whose x_0 is thresholded or, without thresholding, clipped."""


class DiscreteDiffusion:
    """A discrete-time Gaussian diffusion process: the part of a scheduler that does not depend on the solver."""

    config_file: ClassVar[str] = "scheduler_config.json"
    facts: ClassVar[Mapping[str, str]] = {"prediction": "$prediction_type", "schedule": SCHEDULE}
    ignored: ClassVar[frozenset[str]] = SOLVER_KEYS | {"tensor_format", "timestep_values"}  # of 2022, read by no solver
    config: Any

    def __init__(self, config: ProcessConfig) -> None:
        """Works out the table of alpha_cumprod. Raises PortError for a config that has none."""
        self.config = config
        if config.trained_betas is None:
            betas = beta_table(config.beta_schedule, config.beta_start, config.beta_end, config.num_train_timesteps)
        else:
            betas = np.array(config.trained_betas, dtype=np.float64)
        if len(betas) != config.num_train_timesteps:
            raise PortError(
                "trained_betas", f"{len(betas)} are given for num_train_timesteps {config.num_train_timesteps}"
            )
        if config.rescale_betas_zero_snr:
            if len(betas) < 2:
                raise PortError("rescale_betas_zero_snr", "needs at least two timesteps")
            betas = zero_terminal_snr(betas)
        self.alpha_cumprod: Table = np.cumprod(1 - betas)
        self._with_data = np.concatenate([[1.0], self.alpha_cumprod])  # by timestep + 1, so that -1 is the data
        if not (np.diff(self._with_data) < 0).all() or self._with_data[-1] < 0:
            raise PortError("beta_schedule", "alpha_cumprod must fall at every timestep, from below 1 to 0 or more")

    # sampling

    def _listed(self, steps: Steps) -> list[int]:
        """The timesteps of a run, in descending order."""
        config = self.config
        if isinstance(steps, str) or config.respaced:
            if isinstance(steps, bool) or not isinstance(steps, int | str):
                raise PortError("steps", f"got {steps!r}; expected a whole number, or a respacing such as 'fast27'")
            return respaced_timesteps(str(steps), config.num_train_timesteps)
        return spaced_timesteps(steps, config.timestep_spacing, config.num_train_timesteps, config.steps_offset)

    def _records(self, pairs: Iterable[tuple[int, int]], strength: float) -> list[Step]:
        """The steps of a run from where each begins and ends; of these the last part, for a strength below 1."""
        listed = list(pairs)
        records = [
            Step(index, now, then, len(listed), self._sigma(now), self._sigma(then))
            for index, (now, then) in enumerate(listed)
        ]
        return records[len(records) - kept_of(len(records), strength) :]

    def _sigma(self, timestep: int) -> float:
        """sqrt(1 - alpha_cumprod) / sqrt(alpha_cumprod), as if an alpha_cumprod of 0 were 2^-24."""
        level = float(self._with_data[timestep + 1]) or ZERO_SNR
        return sqrt((1 - level) / level)

    def _mixture(self, step: Step) -> tuple[float, float]:
        """What x_t has of x_0 and of epsilon where a step begins."""
        level = self._at(step.timestep)
        return sqrt(level), sqrt(1 - level)

    def start(
        self,
        noise: Annotated[Noise, "B ..."],
        schedule: Annotated[list[Step], Fact(scheduler="@self")],
        sample: Annotated[Sample, "B ...", SPACE, CLEAN] | None = None,
    ) -> Annotated[Started, "B ...", SPACE, Fact(scheduler="@self")]:
        """What the solver starts from: the noise, or a given sample noised to the first timestep of the schedule.

        Raises PortError where the schedule starts part-way (strength below 1) and no sample is given.
        """
        if sample is None:
            if not schedule or schedule[0].index > 0:
                raise PortError(
                    "sample", "a schedule with strength below 1 starts from one", hint="wire it, or set strength: 1"
                )
            return Started(noise, None)
        same_shape("sample", sample, noise)
        if not schedule:
            return Started(sample, None)
        of_sample, of_noise = self._mixture(schedule[0])
        return Started((of_sample * wide(sample) + of_noise * wide(noise)).to(sample.dtype), None)

    def scale_input(
        self, sample: Annotated[Sample, "B ...", SPACE, UNDERWAY], step: Annotated[Step, Fact(scheduler="@self")]
    ) -> Annotated[Sample, "B ...", SPACE, SCALED]:
        """The sample as the model sees it: the identity, since x_t keeps unit variance."""
        return sample

    def original(
        self,
        prediction: Annotated[Prediction, "B ...", PREDICTED, SPACE],
        sample: Annotated[Sample, "B ...", SPACE, UNDERWAY],
        step: Annotated[Step, Fact(scheduler="@self")],
    ) -> Annotated[Sample, "B ...", SPACE, CLEAN]:
        """The clean estimate x_0 from a prediction at x_t, thresholded or clipped as the config says.

        Raises PortError where the shapes differ, or where epsilon is predicted and alpha_cumprod is 0.
        """
        return self._original(prediction, wide(sample), step).to(sample.dtype)

    def _original(self, prediction: Prediction, sample: Tensor, step: Step) -> Tensor:
        """`original` in full precision."""
        config = self.config
        same_shape("prediction", prediction.value, sample)
        original = self._estimate(wide(prediction.value), sample, *self._mixture(step))
        if isinstance(config, Thresholding) and config.thresholding:
            return dynamic_threshold(original, config.dynamic_thresholding_ratio, config.sample_max_value)
        if isinstance(config, Clipping) and config.clip_sample:
            return original.clamp(-config.clip_sample_range, config.clip_sample_range)
        return original

    def _clean(self, prediction: Prediction, sample: Tensor, step: Step, original: Tensor | None) -> Tensor:
        """x_0 in full precision: the edited estimate where one is handed back, else that of the prediction."""
        if original is None:
            return self._original(prediction, sample, step)
        same_shape("original", original, sample)
        return wide(original)

    def _estimate(self, value: Tensor, sample: Tensor, of_sample: float | Tensor, of_noise: float | Tensor) -> Tensor:
        """x_0, as it comes, from a network's value at x_t; of_sample, of_noise: what x_t has of x_0 and of epsilon."""
        if self.config.prediction_type == "v_prediction":
            return of_sample * sample - of_noise * value
        if self.config.prediction_type == "sample":
            return value
        if not (of_sample if isinstance(of_sample, float) else bool((of_sample > 0).all())):
            raise PortError(
                "prediction",
                "is of epsilon at a timestep where alpha_cumprod is 0, which says nothing about x_0",
                hint="use a v_prediction or sample network with rescale_betas_zero_snr, or start at a lower timestep",
            )
        return (sample - of_noise * value) / of_sample

    def _epsilon(self, prediction: Prediction, sample: Tensor, of_sample: float, of_noise: float) -> Tensor:
        """The noise that a prediction at x_t stands for."""
        same_shape("prediction", prediction.value, sample)
        value = wide(prediction.value)
        if self.config.prediction_type == "v_prediction":
            return of_sample * value + of_noise * sample
        if self.config.prediction_type == "sample":
            return (sample - of_sample * value) / of_noise
        return value

    # training

    def random_timesteps(self, rng: Annotated[Rng, "B"]) -> DrawnTimesteps:
        """Draws t ~ Uniform{0 .. T-1} for each image, one draw of each stream (arXiv:2006.11239, alg. 1)."""
        timestep, after = whole(rng, self.config.num_train_timesteps)
        return DrawnTimesteps(timestep, after)

    def add_noise(
        self, sample: Annotated[Sample, "B ...", SPACE, CLEAN], noise: Annotated[Noise, "B ..."], timestep: AnyTimestep
    ) -> Annotated[Sample, "B ...", SPACE, NOISY]:
        """x_t from x_0 and epsilon. timestep: 0..T-1, or -1 for data, where it is the identity; a number, or [B]."""
        same_shape("noise", noise, sample)
        if not hasattr(timestep, "ndim") and timestep == -1:
            return sample
        of_sample, of_noise = self._factors(timestep, sample)
        return (of_sample * wide(sample) + of_noise * wide(noise)).to(sample.dtype)

    def velocity(
        self, sample: Annotated[Sample, "B ...", SPACE, CLEAN], noise: Annotated[Noise, "B ..."], timestep: Timestep
    ) -> Annotated[Output, "B ..."]:
        """v = sqrt(alpha_cumprod) epsilon - sqrt(1 - alpha_cumprod) x_0 (Salimans and Ho 2022, arXiv:2202.00512)."""
        same_shape("noise", noise, sample)
        of_sample, of_noise = self._factors(timestep, sample)
        return (of_sample * wide(noise) - of_noise * wide(sample)).to(sample.dtype)

    def target(
        self, sample: Annotated[Sample, "B ...", SPACE, CLEAN], noise: Annotated[Noise, "B ..."], timestep: Timestep
    ) -> Annotated[Output, "B ...", PREDICTED, SPACE]:
        """What a network of this prediction type is trained to give at x_t: epsilon, x_0 or v."""
        same_shape("noise", noise, sample)
        if self.config.prediction_type == "v_prediction":
            return self.velocity(sample, noise, timestep)
        return noise if self.config.prediction_type == "epsilon" else sample

    def snr(self, timestep: Timestep) -> Annotated[Weight, "B"]:
        """The signal-to-noise ratio alpha_cumprod / (1 - alpha_cumprod), float32 [B], or [1] for a number. 0..T-1."""
        return self._by_level(lambda level: level / (1 - level), timestep)

    def loss_weight(
        self, timestep: Timestep, weighting: Weighting = "constant", gamma: Annotated[float, Bound(gt=0)] = 5.0
    ) -> Annotated[Weight, "B"]:
        """The factor on the squared error of this prediction type, float32 [B], or [1] for a number.

        "constant": 1. "min_snr": min(SNR, gamma) in terms of x_0 (Hang et al. 2023, arXiv:2303.09556);
        "min_snr_plus_one": min(SNR + 1, gamma) in terms of x_0, that is the v loss, bounded. An error of epsilon is SNR
        times that of x_0 (both squared), an error of v is SNR + 1 times, so each weight is divided by that. Raises
        PortError for another word, and where SNR is 0 and a network of epsilon would get an infinite weight.
        """
        if weighting not in ("constant", "min_snr", "min_snr_plus_one"):
            raise PortError("weighting", f"{weighting!r} is unknown; allowed: constant, min_snr, min_snr_plus_one")
        kind = self.config.prediction_type
        if weighting != "constant" and kind == "epsilon" and self.alpha_cumprod[-1] == 0:
            raise PortError("weighting", f"{weighting} is infinite where SNR is 0", hint="train v_prediction or sample")

        def weight(level: Table) -> Table:
            snr = level / (1 - level)
            if weighting == "constant":
                return np.ones_like(snr)
            own = {"epsilon": snr, "v_prediction": snr + 1, "sample": np.ones_like(snr)}[kind]
            return np.minimum(snr if weighting == "min_snr" else snr + 1, gamma) / own

        return self._by_level(weight, timestep)

    # tables

    def _at(self, timestep: Any) -> float:
        """alpha_cumprod at one timestep; 1 at -1, the data."""
        if isinstance(timestep, bool):
            raise self._out_of_range(timestep)
        return float(self._levels(np.asarray([timestep]))[0])

    def _levels(self, timesteps: Any) -> Table:
        """alpha_cumprod at an array of timesteps from -1, the data, to T-1."""
        levels: Table = self._with_data[self._whole(timesteps, -1) + 1]
        return levels

    def _whole(self, timesteps: Any, first: int) -> Any:
        """An array of timesteps from `first` to T-1 as indices. Raises PortError for any other."""
        inside = timesteps.dtype.kind in "iuf" and ((timesteps >= first) & (timesteps < len(self.alpha_cumprod))).all()
        if not inside or (timesteps != np.floor(timesteps)).any():
            raise self._out_of_range(timesteps.tolist())
        return timesteps.astype(np.int64)

    def _out_of_range(self, got: Any) -> PortError:
        return PortError("timestep", f"got {got!r}; allowed: whole numbers from 0 to {len(self.alpha_cumprod) - 1}")

    def _factors(self, timestep: Any, like: Tensor) -> tuple[float | Tensor, float | Tensor]:
        """sqrt(alpha_cumprod) and sqrt(1 - alpha_cumprod): numbers, or for timesteps [B] tensors that broadcast over
        `like`.
        """
        if not hasattr(timestep, "ndim") or timestep.ndim == 0:
            alpha_cumprod = self._at(timestep.item() if hasattr(timestep, "item") else timestep)
            return sqrt(alpha_cumprod), sqrt(1 - alpha_cumprod)
        if timestep.shape[0] not in (1, like.shape[0]):
            raise PortError("timestep", f"{timestep.shape[0]} are given for {like.shape[0]} samples")
        shape = (-1, *(1,) * (like.ndim - 1))
        of_sample = self._by_level(np.sqrt, timestep, data=True)
        of_noise = self._by_level(lambda level: np.sqrt(1 - level), timestep, data=True)
        return of_sample.to(like.device).reshape(shape), of_noise.to(like.device).reshape(shape)

    def _by_level(self, function: Callable[[Table], Table], timestep: Any, *, data: bool = False) -> Tensor:
        """A function of alpha_cumprod, as float32 [B] beside the timesteps; [1] for a number. data: -1 is allowed."""
        timesteps, device = _array(timestep)
        levels = self._levels(timesteps)
        if not data and (levels == 1).any():
            raise self._out_of_range(timesteps.tolist())
        return _tensor(function(levels), device)

    def _rows(self, table: Any, timestep: Any) -> Tensor:
        """The entries of a table by timestep, as float32 [B] beside the timesteps."""
        timesteps, device = _array(timestep)
        return _tensor(table[self._whole(timesteps, 0)], device)


def same_shape(port: str, value: Tensor, sample: Tensor) -> None:
    """Raises PortError where a value is not of the sample's shape."""
    if value.shape != sample.shape:
        raise PortError(port, f"shape {list(value.shape)}; expected {list(sample.shape)}, like the sample")


def noise_like(sample: Tensor, rng: RngState) -> tuple[Tensor, RngState]:
    """Unit normal noise of the sample's shape, float32 on its device, and the streams after it."""
    if len(rng.states) != sample.shape[0]:
        raise PortError("rng", f"{len(rng.states)} streams for {sample.shape[0]} samples; one each is needed")
    noise, rng = normal(rng, sample.shape[1:])
    return noise.to(sample.device), rng


def kept_of(steps: int, strength: float) -> int:
    """How many of N steps image to image does: floor(N * strength), the last of them.

    Raises PortError where strength is not in 0..1.
    """
    if isinstance(strength, bool) or not isfinite(strength) or not 0 <= strength <= 1:
        raise PortError("strength", f"got {strength!r}; allowed: 0 (the sample itself) to 1 (from noise alone)")
    return int(steps * strength)


def _array(timestep: Any) -> tuple[Any, Any]:
    """Timesteps, a number or a tensor, as a numpy array [B], and the device that they are on."""
    if hasattr(timestep, "cpu"):
        rows = timestep.detach().reshape(-1).cpu()
        return (rows.double() if rows.is_floating_point() else rows).numpy(), timestep.device
    return np.asarray(timestep).reshape(-1), "cpu"


def _tensor(values: Table, device: Any) -> Tensor:
    import torch

    return torch.as_tensor(values, dtype=torch.float32, device=device)
