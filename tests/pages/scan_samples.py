"""An injection scan as a live worker answers it: four blocks, curves of four shapes, parts that sum to the logit."""

import numpy as np

from backend.formats.messages import Component, ScanReply
from backend.web.scan_schemas import ScanQuery

TEXT = "The second brigade\nwas <b>sent"
TOKENS = ("<|endoftext|>", "The", " second", " brig", "ade", "\n", "was", " <", "b", ">", "sent")
ASKED = ScanQuery(text=TEXT, token=" Brigade", n_coefficients=41, n_clusters=3)


def reply(**changes: object) -> ScanReply:
    """Added after block 1; what was written before changes by the norm alone."""
    n = 41
    c = np.linspace(-10, 10, n)
    scale = 5 * np.sqrt(1 + c**2 / 200)
    before, bend, injected = 5 / scale, np.tanh(c / 4), 0.31 * c * 5 / scale
    shapes: dict[str, tuple[np.ndarray, int]] = {
        "embedding": (0.4 * before, 2),
        "injected": (injected, 0),
        "0.attention": (0.2 * before, 2),
        "0.mlp": (3.1 * before, 2),
        "1.attention": (-0.3 * before, 2),
        "1.mlp": (0.6 * before, 2),
        "2.attention": (0.3 + 0.5 * bend, 0),
        "2.mlp": (1.2 + 1.1 * bend, 0),
        "3.attention": (-0.8 - 0.2 * bend, 1),
        "3.mlp": (2.0 - 1.4 * bend, 1),
        "rest": (np.full(n, 0.25), -1),
    }
    components = tuple(component(name, values, cluster) for name, (values, cluster) in shapes.items())
    given = {
        "id": "a", "tokens": TOKENS, "position": 10, "direction": "“ Brigade”", "hook_point": "blocks.1.hook_resid_post",
        "coefficients": tuple(c.tolist()), "components": components, "scale": tuple(scale.tolist()),
        "total": tuple(sum(values for values, _ in shapes.values()).tolist()), "token": " Brigade", "minus_token": "",
    }  # fmt: skip
    return ScanReply(**(given | changes))


def single() -> ScanReply:
    """One coefficient."""
    whole = reply()
    components = tuple(
        Component(each.name, each.kind, each.layer, each.head, each.values[:1], -1) for each in whole.components
    )
    return reply(coefficients=(-10.0,), components=components, total=whole.total[:1], scale=whole.scale[:1])


def with_heads(n_layers: int = 13, n_heads: int = 9) -> ScanReply:
    """More components than a page shows."""
    heads = tuple(
        component(f"{layer}.head.{head}", np.linspace(0, 1 + layer * n_heads + head, 41) / 50, head % 3)
        for layer in range(n_layers)
        for head in range(n_heads)
    )
    return reply(components=heads)


def component(name: str, values: np.ndarray, cluster: int) -> Component:
    parts = name.split(".")
    if len(parts) == 1:
        return Component(name, name, None, None, tuple(values.tolist()), cluster)
    head = int(parts[2]) if len(parts) == 3 else None
    return Component(name, parts[1], int(parts[0]), head, tuple(values.tolist()), cluster)
