"""The U-Nets of OpenAI's code, from which latent diffusion and IF descend: how one is laid out, as the names and shapes
of its tensors tell, and what the library calls each.

input_blocks counts from the first convolution through all levels, output_blocks back through them; entry 0 of a block is
residual, entry 1 attends where its level does, and the last entry of a level goes to the next.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...originals import Checkpoint, Rows

Tensors = dict[str, str | Rows]

_MODULE = re.compile(r"((?:input|output)_blocks\.\d+\.\d+|(?:middle_block|time_embed|out)\.\d+)\.(.+)")
_RESIDUAL = (
    (r"^in_layers\.0\.", "norm1."),
    (r"^in_layers\.2\.", "conv1."),
    (r"^emb_layers\.[01]\.", "time_emb_proj."),  # 0 where the embedding is activated once for all blocks
    (r"^out_layers\.0\.", "norm2."),
    (r"^out_layers\.3\.", "conv2."),
    (r"^skip_connection\.", "conv_shortcut."),
    (r"^op\.", "conv."),
)
_ATTENTION = (
    (r"^norm\.", "group_norm."),
    (r"^norm_encoder\.", "norm_cross."),
    (r"^proj_out\.", "to_out.0."),
)


def replaced(name: str, rules: Sequence[tuple[str, str]]) -> str:
    """A name after each pattern's replacement, in order."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


@dataclass(frozen=True)
class Layout:
    """A U-Net, from the largest level to the smallest: its widths, residual blocks, and whether a level attends."""

    widths: tuple[int, ...]
    blocks: tuple[int, ...]
    attends: tuple[bool, ...]

    @property
    def uniform(self) -> int | list[int]:
        """Residual blocks of all levels, or of each where these differ."""
        return self.blocks[0] if len(set(self.blocks)) == 1 else list(self.blocks)

    def down(self, attending: str, plain: str) -> list[str]:
        """The types of levels on the way down."""
        return [attending if attends else plain for attends in self.attends]

    def up(self, attending: str, plain: str) -> list[str]:
        """The types of levels on the way up, from the smallest."""
        return [attending if attends else plain for attends in reversed(self.attends)]


def layout(unet: Checkpoint) -> Layout:
    """How a U-Net is laid out. Raises WeightsError where its blocks are no such U-Net."""
    levels: list[list[int]] = [[]]
    for number in range(unet.count("output_blocks.{}.0.in_layers.0.weight")):
        levels[-1].append(number)
        block = f"output_blocks.{number}"
        if any(f"{block}.{entry}.{step}.weight" in unet for entry in (1, 2) for step in ("conv", "in_layers.0")):
            levels.append([])
    levels.reverse()
    first = [f"output_blocks.{numbers[0] if numbers else 0}" for numbers in levels]
    return Layout(
        widths=tuple(unet.shape(f"{block}.0.out_layers.3.weight")[0] for block in first),
        blocks=tuple(len(numbers) - 1 for numbers in levels),
        attends=tuple(f"{block}.1.norm.weight" in unet for block in first),
    )


def modules(plan: Layout) -> dict[str, str]:
    """The library's names of modules by the original's."""
    names = {"time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2"}
    names |= {"input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out"}
    names |= {"middle_block.0": "mid_block.resnets.0", "middle_block.2": "mid_block.resnets.1"}
    names["middle_block.1"] = "mid_block.attentions.0"
    number, last = 1, len(plan.widths) - 1
    for level, count in enumerate(plan.blocks):
        for block in range(count):
            names[f"input_blocks.{number}.0"] = f"down_blocks.{level}.resnets.{block}"
            names[f"input_blocks.{number}.1"] = f"down_blocks.{level}.attentions.{block}"
            number += 1
        if level < last:
            names[f"input_blocks.{number}.0"] = f"down_blocks.{level}.downsamplers.0"
            number += 1
    number = 0
    for up, level in enumerate(range(last, -1, -1)):
        for block in range(plan.blocks[level] + 1):
            names[f"output_blocks.{number}.0"] = f"up_blocks.{up}.resnets.{block}"
            if plan.attends[level]:
                names[f"output_blocks.{number}.1"] = f"up_blocks.{up}.attentions.{block}"
            number += 1
        if level:
            names[f"output_blocks.{number - 1}.{1 + plan.attends[level]}"] = f"up_blocks.{up}.upsamplers.0"
    return names


def library_tensors(unet: Checkpoint, plan: Layout, head_width: int = 0) -> Tensors:
    """The tensors of a U-Net by the library's names.

    head_width: of attention whose queries, keys and values are rows of one tensor, head by head.
    """
    places, found = modules(plan), Tensors()
    for name, original in unet.names.items():
        parts = _MODULE.fullmatch(name)
        if parts is None or parts[1] not in places:
            continue
        module, inner = parts.groups()
        joined = f"{module}.qkv.weight" in unet
        inner = replaced(inner, _ATTENTION if joined else _RESIDUAL)
        layer, _, leaf = inner.partition(".")
        if layer not in ("qkv", "encoder_kv"):
            found[f"{places[module]}.{inner}"] = original
            continue
        width = unet.shape(f"{module}.norm.weight")[0]
        into = ("to_q", "to_k", "to_v") if layer == "qkv" else ("add_k_proj", "add_v_proj")
        if unet.shape(name)[0] == width:  # positions attend to the text alone
            found[f"{places[module]}.to_q.{leaf}"] = original
            continue
        for place, one in enumerate(into):
            found[f"{places[module]}.{one}.{leaf}"] = Rows(original, place, len(into), max(1, width // head_width))
    return found
