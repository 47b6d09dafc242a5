"""Comparing outputs with another implementation's. What was found can be kept: `scripts/parity.py` makes a page of it."""

from __future__ import annotations

import json
import os

from torch import Tensor


def agree(part: str, peer: str, ours: Tensor, theirs: Tensor, *, tolerance: float = 1e-5, what: str = "") -> None:
    """Asserts that two outputs are equal within `tolerance` of the scale of theirs (its largest magnitude).

    part: the node type, as a document names it. peer: what it is compared with, such as "diffusers UNet2DModel" or "the
    original's published numbers". what: which of the part's forms this is, such as "inpainting". The figure goes, with
    the running test's name, to the file that PARITY_LOG names, if it does.
    """
    assert ours.shape == theirs.shape, f"shape {list(ours.shape)}, the peer's is {list(theirs.shape)}"
    theirs, ours = theirs.detach().double(), ours.detach().double()
    scale = theirs.abs().max().item()
    difference = (ours - theirs).abs().max().item() / max(scale, 1e-30)
    assert scale > 0, "an output of nothing but zeros compares nothing"
    assert difference <= tolerance, f"differs by {difference:.2e} of the output's scale; tolerance {tolerance:.0e}"
    log = os.environ.get("PARITY_LOG")
    if log:
        test = os.environ["PYTEST_CURRENT_TEST"].rpartition(" ")[0]
        line = {
            "part": part, "peer": peer, "what": what, "test": test, "difference": difference, "tolerance": tolerance,
        }  # fmt: skip
        with open(log, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
