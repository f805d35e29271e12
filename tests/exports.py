"""Neuronpedia exports made up for tests: as many features as asked for, texts that repeat between features or do not.

Texts are Python's own standard library, cut into words as tokenizers do: English and code.
"""

import gzip
import itertools
import re
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson

N_TOP, N_INTERVALS, N_EACH = 20, 5, 5
N_TOKENS = 128
N_FIRING = 6
"""Tokens of a text with an activation."""
BATCH = 1024
_TOKEN = re.compile(r" ?[A-Za-z]{1,9}| ?[0-9]{1,3}| ?[^\sA-Za-z0-9]{1,3}|\s+?(?=\S)|\s{1,8}|.")


@cache
def _library() -> list[bytes]:
    """JSON of each token of the standard library, file after file."""
    folder = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        path for path in folder.rglob("*.py") if "site-packages" not in path.parts and "test" not in path.parts
    )
    known: dict[str, bytes] = {}
    tokens = []
    for path in files:
        for token in _TOKEN.findall(path.read_text(errors="replace")):
            tokens.append(known.setdefault(token, b""))
            if not known[token]:
                known[token] = tokens[-1] = orjson.dumps(token)
    return tokens


def _spans() -> Iterator[bytes]:
    """JSON of one text after the other, all different until the library ends."""
    tokens = _library()
    for start in itertools.count():
        for at in range(start % N_TOKENS, len(tokens) - N_TOKENS, N_TOKENS):
            yield b"[" + b",".join(tokens[at : at + N_TOKENS]) + b"]"


def write(
    folder: Path, *, n_features: int, n_contexts: int = 0, model: str = "gpt2-small", source: str = "6-made"
) -> int:
    """Write an export; returns how many activations it has.

    Args:
        folder: Where; made.
        n_features: Of the source.
        n_contexts: Different texts, which features share; 0: every example has one of its own.
        model: Its id.
        source: Its id.
    """
    rng = np.random.default_rng(1)
    texts = _spans()
    vocabulary = sorted({orjson.loads(token) for token in _library()[:100_000]})

    def spans(n: int) -> list[bytes]:
        return list(itertools.islice(texts, n))

    shared = spans(n_contexts)
    for name in ("features", "activations", "explanations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_heads(folder, model, source, n_features)
    n_rows = 0
    for number, first in enumerate(range(0, n_features, BATCH)):
        indices = range(first, min(first + BATCH, n_features))
        _write(
            folder / f"features/batch-{number}.jsonl.gz", [_neuron(rng, vocabulary, model, source, i) for i in indices]
        )
        lines = []
        for index in indices:
            n = N_TOP + N_INTERVALS * N_EACH
            some = [shared[i] for i in rng.integers(0, n_contexts, n).tolist()] if n_contexts else spans(n)
            lines += _activations(rng, model, source, index, some)
        _write(folder / f"activations/batch-{number}.jsonl.gz", lines)
        rows = [_explanation(model, source, index) for index in indices if index % 3 == 0]
        _write(folder / f"explanations/batch-{number}.jsonl.gz", rows)
        n_rows += len(lines)
    return n_rows


def _write(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(gzip.compress(b"\n".join(lines) + b"\n", 1, mtime=0))


def _write_heads(folder: Path, model: str, source: str, n_features: int) -> None:
    at = "2024-05-06T07:08:09.010Z"
    set_name = source.split("-", 1)[1]
    heads: dict[str, dict[str, Any]] = {
        "model": {"id": model, "displayNameShort": "GPT2-S", "displayName": "GPT-2 Small", "layers": 12, "owner": "OpenAI",
                  "dimension": 768, "creatorId": "c1", "createdAt": at, "updatedAt": at, "instruct": False},
        "release": {"name": "made-up", "description": "Made up for a test", "creatorName": "T. Ester", "urls": [],
                    "creatorId": "c1", "createdAt": at},
        "sourceset": {"modelId": model, "name": set_name, "description": "Made up", "type": "res", "creatorName": "T. Ester",
                      "urls": ["https://example.org"], "creatorId": "c1", "releaseName": "made-up", "createdAt": at},
        "source": {"id": source, "modelId": model, "setName": set_name, "creatorId": "c1", "num_prompts": 24576,
                   "num_tokens_in_prompt": N_TOKENS, "dataset": "made/up", "hfRepoId": "made/up", "createdAt": at,
                   "saelensConfig": {"d_sae": n_features, "d_in": 768}},
    }  # fmt: skip
    for name, row in heads.items():
        (folder / f"{name}.jsonl").write_bytes(orjson.dumps(row) + b"\n")


def _neuron(rng: Any, vocabulary: list[str], model: str, source: str, index: int) -> bytes:
    picked = rng.integers(0, len(vocabulary), 20).tolist()
    centres = np.round(0.023 + 0.044 * np.arange(50), 3).tolist()
    return orjson.dumps({
        "modelId": model, "layer": source, "index": str(index), "maxActApprox": 2.214, "creatorId": "c1",
        "frac_nonzero": round(float(rng.random()) / 1000, 5), "hasVector": False, "vector": [], "vectorLabel": None,
        "hookName": None, "vectorDefaultSteerStrength": 10,
        "freq_hist_data_bar_heights": rng.integers(0, 60, 50).tolist(), "freq_hist_data_bar_values": centres,
        "logits_hist_data_bar_heights": rng.integers(0, 4000, 50).tolist(),
        "logits_hist_data_bar_values": np.round(-0.662 + 0.089 * np.arange(50), 3).tolist(),
        **{f"neuron_alignment_{key}": rng.integers(0, 768, 3).tolist() for key in ("indices", "values", "l1")},
        **{f"correlated_neurons_{key}": rng.integers(0, 768, 3).tolist() for key in ("indices", "pearson", "l1")},
        "neg_str": [vocabulary[i] for i in picked[:10]], "neg_values": np.round(-rng.random(10), 3).tolist(),
        "pos_str": [vocabulary[i] for i in picked[10:]], "pos_values": np.round(3 * rng.random(10), 3).tolist(),
        "topkCosSimIndices": [], "topkCosSimValues": [], "decoder_weights_dist": [], "sourceSetName": None,
    })  # fmt: skip


def _activations(rng: Any, model: str, source: str, index: int, spans: list[bytes]) -> list[bytes]:
    n = len(spans)
    at = np.sort(rng.integers(1, N_TOKENS, (n, N_FIRING)), axis=1).tolist()
    fired = np.round(2.214 * rng.random((n, N_FIRING)) + 0.001, 3)
    fired[:N_TOP].sort(axis=1)
    numbers = fired.tolist()
    ids = rng.integers(0, 2**62, n).tolist()
    rows = []
    for k in range(n):
        values: list[float] = [0] * N_TOKENS
        for position, value in zip(at[k], numbers[k], strict=True):
            values[position] = value
        largest = max(values)
        interval = (k - N_TOP) // N_EACH
        low = -1 if k < N_TOP else round(2.214 * interval / 5, 3)
        row = {
            "modelId": model, "layer": source, "index": str(index), "creatorId": "c1", "dataSource": "made/up",
            "maxValue": largest, "minValue": 0, "values": values, "maxValueTokenIndex": values.index(largest),
            "dfaValues": [], "dfaMaxValue": None, "dfaTargetIndex": None, "binContains": -1 if k < N_TOP else 0.25,
            "binMin": low, "binMax": 2.214 if k < N_TOP else round(low + 0.443, 3), "dataIndex": None,
            "createdAt": "2024-05-06T07:08:09.010Z", "lossValues": [], "logitContributions": None,
            "qualifyingTokenIndex": 5, "zIndices": [], "zValues": [],
        }  # fmt: skip
        head = orjson.dumps({"id": f"cm{ids[k]:020x}abc"[:25]})[:-1]
        rows.append(head + b',"tokens":' + spans[k] + b"," + orjson.dumps(row)[1:])
    return rows


def _explanation(model: str, source: str, index: int) -> bytes:
    return orjson.dumps({
        "id": f"ce{index:018d}", "modelId": model, "layer": source, "index": str(index), "authorId": "c1",
        "description": f"words of kind {index}", "embedding": "[" + ",".join(["0.0123"] * 256) + "]",
        "typeName": "oai_token-act-pair", "explanationModelName": "gpt-4o-mini", "umap_x": index / 2, "umap_y": -index,
        "umap_cluster": index % 7, "umap_log_feature_sparsity": 0,
    })  # fmt: skip
