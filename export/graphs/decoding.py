"""The part of a YOLO network that makes boxes and scores, which fewer bits would blur."""

from __future__ import annotations

import onnx


def decoding_nodes(graph: onnx.ModelProto) -> list[str]:
    """Names of a YOLO network's nodes that stay in float32 in 8 bits; none for another network.

    These are its attention, the last convolution of every branch of its head, and the nodes that
    make boxes and scores of their results: a box is a sum of 16 weighted distances, of which 8 bits
    would leave few.
    """
    names = [node.name for node in graph.graph.node]
    heads = {name.split("/dfl/")[0] for name in names if "/dfl/" in name}
    return [
        name
        for name in names
        if "/attn/" in name
        or any(
            name.startswith(f"{head}/dfl/")
            or name.rpartition("/")[0] == head
            or (name.startswith(f"{head}/cv") and name.endswith(".2/Conv"))
            for head in heads
        )
    ]
