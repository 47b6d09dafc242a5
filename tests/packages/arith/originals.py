"""How an old form of lines is converted: two in one tensor, and the first of them read."""

from diffgraph import Checkpoint, Conversion, Original, Part, Rows


def lines(checkpoint: Checkpoint) -> Conversion:
    """The first line. Its unit is told, or metre."""
    joined, length = checkpoint.shape("lines.w")
    config = {"in_features": length, "out_features": joined // 2, "unit": checkpoint.setting("unit", "metre")}
    tensors = {"weight": Rows("lines.w", 0, 2), "bias": "lines.b"}
    return Conversion(
        title="lines",
        parts=[Part("linear", "arith.Linear", config, tensors, library="lines")],
        run="FOLDER",
        index={"_class_name": "LinePipeline"},
        unused=[r"^age$"],
    )


LINES = Original("old lines", (r"^lines\.w$", r"^lines\.b$"), lines, settings={"unit": "what they measure"})
