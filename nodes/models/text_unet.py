"""What the published U-Nets that see a text share: levels whose attention reads it, and the checks of what they are told.

Letters: B N batch, C channels, H W height and width, L tokens, D features. Names of modules are the published ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ...authoring import Bound, Kind
from ...errors import InputError, PortError
from ..kinds import TextEmbeds
from .blocks import GroupNorm, check_condition, check_tensor, sinusoid, zeroed
from .resnet import Activation, ResBlock, TimeEmbedding

Count = Annotated[int, Bound(ge=1)]
Features = Annotated[Tensor, Kind("Features")]  # numbers that only the network itself can read


class TextCondition(NamedTuple):
    """What such a network is told beside x_t and t; a row is a text, or an image and its text.

    keys_values: the text's keys and values for each attention layer, in the network's order, [N, 2, heads, L, D].
    embedding: added to the embedding of time, [N, D]. hint: channels beside the sample, [N, C, H, W].
    """

    keys_values: list[Features]
    embedding: Features | None
    hint: Features | None


@dataclass(frozen=True)
class Plan:
    """How a network is laid out, from the largest level to the smallest.

    widths, layers: channels and residual blocks of each level; one block more on the way up. down, up: which levels
    attend to the text, in the order in which they are passed. time_width: of the embedding of time. resnet, middle: make
    a block from one width to another; attention: that of a level, middle_attention: that of the middle; shrink, enlarge:
    the step to the next level.
    """

    widths: Sequence[int]
    layers: Sequence[int]
    down: Sequence[bool]
    up: Sequence[bool]
    time_width: int
    groups: int
    eps: float
    act: Activation
    resnet: Callable[[int, int], ResBlock]
    middle: Callable[[int, int], ResBlock]
    attention: Callable[[int], nn.Module]
    middle_attention: Callable[[], nn.Module]
    shrink: Callable[[int], nn.Module]
    enlarge: Callable[[int], nn.Module]


class Level(nn.Module):
    """Residual blocks of one size, each followed by attention to the text where the level has any."""

    def __init__(self, resnets: list[ResBlock], attentions: list[nn.Module]) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(resnets)
        self.attentions = nn.ModuleList(attentions)

    def layer(self, number: int, x: Tensor, emb: Tensor, texts: Iterator[Tensor]) -> Tensor:
        """A residual block and the attention after it."""
        x = self.resnets[number](x, emb)
        return self.attentions[number](x, next(texts)) if number < len(self.attentions) else x


class DownLevel(Level):
    """A level on the way down; what each of its layers gives is kept in `skips`."""

    def __init__(self, resnets: list[ResBlock], attentions: list[nn.Module], step: nn.Module | None) -> None:
        super().__init__(resnets, attentions)
        self.downsamplers = nn.ModuleList([] if step is None else [step])

    def forward(self, x: Tensor, emb: Tensor, texts: Iterator[Tensor], skips: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, x, emb, texts)
            skips.append(x)
        for step in self.downsamplers:
            x = step(x, emb) if isinstance(step, ResBlock) else step(x)
            skips.append(x)
        return x


class MidLevel(Level):
    """The lowest level: block, attention, block."""

    def forward(self, x: Tensor, emb: Tensor, texts: Iterator[Tensor]) -> Tensor:
        return self.layer(1, self.layer(0, x, emb, texts), emb, texts)


class UpLevel(Level):
    """A level on the way up; each of its blocks sees the latest of `skips` beside its input, and takes it away."""

    def __init__(self, resnets: list[ResBlock], attentions: list[nn.Module], step: nn.Module | None) -> None:
        super().__init__(resnets, attentions)
        self.upsamplers = nn.ModuleList([] if step is None else [step])

    def forward(self, x: Tensor, emb: Tensor, texts: Iterator[Tensor], skips: list[Tensor]) -> Tensor:
        for number in range(len(self.resnets)):
            x = self.layer(number, torch.cat([x, skips.pop()], dim=1), emb, texts)
        for step in self.upsamplers:
            x = step(x, emb) if isinstance(step, ResBlock) else step(x)
        return x


class TextUNet(nn.Module):
    """The network itself, from the first convolution to the last, with texts given as keys and values.

    A text's keys and values depend on the text alone. They are made once, in `condition`, and carried: a step then does
    no work on the text, at the cost of a few megabytes a text (Stable Diffusion: 3.8 MB in fp16, IF-I-XL: 15 MB).
    level_types: what the levels are made of: those on the way down, the lowest, those on the way up.
    """

    level_types: ClassVar[tuple[type[DownLevel], type[MidLevel], type[UpLevel]]] = (DownLevel, MidLevel, UpLevel)

    def __init__(self, in_channels: int, out_channels: int, plan: Plan) -> None:
        super().__init__()
        widths, last = plan.widths, len(plan.widths) - 1
        down_level, mid_level, up_level = self.level_types
        self.act, self.multiple = plan.act, 2**last
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.time_embedding = TimeEmbedding(widths[0], plan.time_width, act=plan.act)

        self.down_blocks = nn.ModuleList()
        channels, skips = widths[0], [widths[0]]
        for level, (width, layers) in enumerate(zip(widths, plan.layers, strict=True)):
            resnets = [plan.resnet(channels if number == 0 else width, width) for number in range(layers)]
            attentions = [plan.attention(level) for _ in range(layers * plan.down[level])]
            self.down_blocks.append(down_level(resnets, attentions, plan.shrink(width) if level < last else None))
            channels = width
            skips += [width] * (layers + (level < last))

        self.mid_block = mid_level([plan.middle(channels, channels) for _ in range(2)], [plan.middle_attention()])

        self.up_blocks = nn.ModuleList()
        for level, attends in zip(range(last, -1, -1), plan.up, strict=True):
            resnets = []
            for _ in range(plan.layers[level] + 1):
                resnets.append(plan.resnet(channels + skips.pop(), widths[level]))
                channels = widths[level]
            attentions = [plan.attention(level) for _ in range(len(resnets) * attends)]
            self.up_blocks.append(up_level(resnets, attentions, plan.enlarge(channels) if level else None))
        self.conv_norm_out = GroupNorm(plan.groups, channels, plan.eps)
        self.conv_out = zeroed(nn.Conv2d(channels, out_channels, 3, padding=1))

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.conv_in.weight.device

    def attention_layers(self) -> list[Any]:
        """The layers that attend to the text, in the order in which `denoise` comes to them."""
        levels: list[Any] = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [layer for level in levels for layer in level.attentions]

    def text_keys_values(self, text: Tensor) -> list[Tensor]:
        """What a text [N, L, D] says to each attention layer, [N, 2, heads, L, D]."""
        return [layer.keys_values(text) for layer in self.attention_layers()]

    def waves(self, timestep: Tensor, *, cosine_first: bool = True, frequency_shift: float = 0) -> Tensor:
        """Time [B] as waves [B, C], in the dtype of the network."""
        width, dtype = self.conv_in.out_channels, self.conv_in.weight.dtype
        return sinusoid(timestep, width, cosine_first=cosine_first, frequency_shift=frequency_shift).to(dtype)

    def denoise(self, x: Tensor, emb: Tensor, told: TextCondition) -> Tensor:
        """x: the sample [B, C, H, W] in the dtype of the network, without the hint. emb: of time, activated [B, D]."""
        x = self.conv_in(x if told.hint is None else torch.cat([x, told.hint], dim=1))
        return self.levels(x, emb, told)

    def levels(self, x: Tensor, emb: Tensor, told: TextCondition) -> Tensor:
        """What follows the first convolution. x: [B, C, H, W] as it gives them."""
        texts, skips = iter(told.keys_values), [x]
        for level in self.down_blocks:
            x = level(x, emb, texts, skips)
        x = self.mid_block(x, emb, texts)
        for level in self.up_blocks:
            x = level(x, emb, texts, skips)
        out: Tensor = self.conv_out(self.act(self.conv_norm_out(x)))
        return out

    def checked_sample(self, sample: Tensor, *channels: int | None) -> Tensor:
        """The sample in the dtype of the network. Raises PortError unless it is [B, *channels, H, W], H and W such that
        all levels halve them. None is any number: of frames.
        """
        check_tensor("sample", sample, (None, *channels, None, None), self.device)
        height, width = sample.shape[-2:]
        if height % self.multiple or width % self.multiple or not height * width:
            raise PortError(
                "sample",
                f"is {height} high and {width} wide; this network takes multiples of {self.multiple}",
                hint="resize or pad it",
            )
        return sample.to(self.conv_in.weight.dtype)

    def checked_text(self, text: TextEmbeds, width: int) -> Tensor:
        """The hidden states of a text [N, L, width] in the dtype of the network."""
        hidden = getattr(text, "hidden", None)
        if not isinstance(hidden, Tensor):
            raise PortError("text", f"is a {type(text).__name__}; expected TextEmbeds", hint="wire a text encoder")
        check_tensor("text", hidden, (None, None, width), self.device)
        return hidden.to(self.conv_in.weight.dtype)

    def checked_beside(self, port: str, value: Tensor, rows: int, channels: int) -> Tensor:
        """What stands beside the sample [rows, channels, H, W], in the dtype of the network."""
        check_tensor(port, value, (None, channels, None, None), self.device)
        if value.shape[0] != rows:
            fix = "Expand the text to the rows of the images"
            raise PortError(port, f"has {value.shape[0]} rows, the text {rows}", hint=fix)
        return value.to(self.conv_in.weight.dtype)

    def checked_condition(self, condition: object, sample: Tensor, hint_channels: int) -> TextCondition:
        """The condition, if it is of this network and fits the sample."""
        if not isinstance(condition, TextCondition):
            raise PortError("condition", f"is a {type(condition).__name__}, not what this network's `condition` gives")
        rows = sample.shape[0]
        widths = [layer.heads_width for layer in self.attention_layers()]
        found = [(kv.shape[2], kv.shape[4]) for kv in condition.keys_values]
        hinted = 0 if condition.hint is None else condition.hint.shape[1]
        embeds = (condition.embedding is not None) == hasattr(self, "add_embedding")
        if found != widths or hinted != hint_channels or not embeds:
            raise PortError("condition", "is of another network", hint="wire what this network's `condition` gives")
        if any(kv.shape[0] != rows for kv in condition.keys_values):
            given = condition.keys_values[0].shape[0]
            raise PortError(
                "condition",
                f"has {given} rows, the sample {rows}",
                hint="Expand the condition to the rows of the sample",
            )
        if condition.hint is not None and condition.hint.shape[2:] != sample.shape[2:]:
            size, wanted = list(condition.hint.shape[2:]), list(sample.shape[2:])
            raise PortError(
                "condition", f"was made for samples of {size}, not of {wanted}", hint="make both of one size"
            )
        check_condition((*condition.keys_values, condition.embedding, condition.hint), self.conv_in.weight)
        return condition


def check_levels(widths: Sequence[int], **each: Sequence[object]) -> None:
    """Raises InputError unless there is a level, and as many entries in each as there are levels."""
    if not widths:
        raise InputError("block_out_channels: expected widths of at least one level")
    for name, values in each.items():
        if len(values) != len(widths):
            raise InputError(f"{name}: {len(values)} entries; block_out_channels has {len(widths)} levels")


def check_multiples(*pairs: tuple[str, int, int]) -> None:
    """Raises InputError unless each value is a multiple of its divisor."""
    for name, value, divisor in pairs:
        if value % divisor:
            raise InputError(f"{name}: {value} is not a multiple of {divisor}, as this network needs")
