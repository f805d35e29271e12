"""`python -m tests.bench.formats [--write]`: SAEs of every format on a real model, beside another's code.

Each example of `tests.saes` is written with the model's width, loaded, and run on the same tokens as its oracle. Compared
are which features fire, the activations of those that do, and each feature's top activations: the same tokens in the same
order, as a dashboard shows them.
Prints the table of docs/formats.md; `--write` puts it there, and the numbers into tests/bench/results/formats.json.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests import saes, tiny
from workers.compute import corpus as corpora
from workers.compute import encoders, language_model, sae

RESULTS = Path(__file__).parent / "results" / "formats.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "formats.md"
BEGIN, END = "<!-- printed by tests.bench.formats -->\n", "<!-- end -->"
MODEL = "tinystories-260k"
D_SAE = 512
N_TOKENS = 8192
N_TOP = 20
SAME = 1e-5
"""Two activations closer than this, relative to the larger, may change places: sums are in another order."""


def main() -> None:
    """Run, print, and write where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    is_written = parser.parse_args().write
    warnings.simplefilter("ignore")
    results = measure()
    sys.stdout.write(table(results))
    if is_written:
        RESULTS.write_text(json.dumps(results, indent=1) + "\n")
        before, _, rest = PAGE.read_text().partition(BEGIN)
        PAGE.write_text(before + BEGIN + table(results) + END + rest.partition(END)[2])


def measure() -> dict[str, Any]:
    """One row an example."""
    model = language_model.load(str(tiny.SHARED / "models" / MODEL), device=torch.device("cpu"), dtype=torch.float32)
    text = (tiny.SHARED / "corpora" / "tinystories-head.txt").read_text()[:60_000]
    corpus = corpora.from_documents(
        text.split(corpora.SEPARATOR), model.tokenizer, special_tokens=model.special_tokens,
        n_vocabulary=model.d_vocab, context_size=128, prepend_bos=True, max_tokens=N_TOKENS,
    )  # fmt: skip
    tokens = torch.from_numpy(corpus.rows.astype(np.int64))
    rows = []
    for name, example in saes.EXAMPLES.items():
        with tempfile.TemporaryDirectory() as folder:
            rows.append({"format": name, "by": example.by} | _compare(model, tokens, example, Path(folder)))
    return {"model": MODEL, "n_tokens": tokens.numel(), "d_sae": D_SAE, "n_top": N_TOP, "rows": rows}


def _compare(
    model: language_model.LanguageModel, tokens: torch.Tensor, example: saes.Example, folder: Path
) -> dict[str, Any]:
    written = example.write(folder / "sae", model.d_model, D_SAE)
    dictionary = sae.load(written.folder, device=torch.device("cpu"), declared=written.declared)
    capture = language_model.resolve(model, dictionary.description.hook_point)
    x = language_model.residuals(model, capture, tokens).flatten(0, 1)
    found = encoders.of(dictionary, screen="fp32").encode(x)
    ours = torch.zeros(len(x), D_SAE)
    ours[found.row.astype(np.int64), found.feature.astype(np.int64)] = torch.from_numpy(found.value)
    theirs = written.oracle(x)
    n_top, n_equal = _top_activations(ours, theirs)
    is_either, is_both = (ours != 0) | (theirs != 0), (ours != 0) & (theirs != 0)
    return {
        "n_firings": int(theirs.count_nonzero()),
        "n_firings_differing": int((is_either & ~is_both).sum()),
        "max_activation": float(theirs.abs().max()),
        "max_difference": float((ours - theirs)[is_both].abs().max()),
        "n_top": n_top,
        "n_top_equal": n_equal,
    }


def _top_activations(ours: torch.Tensor, theirs: torch.Tensor) -> tuple[int, int]:
    """How many top activations there are in all, and how many are at the same token, ties apart."""
    a, b = (values.topk(N_TOP, dim=0) for values in (ours, theirs))
    is_firing = b.values > 0
    is_tied = (a.values - b.values).abs() <= SAME * b.values.abs()
    is_equal = (a.indices == b.indices) | (is_tied & (ours.gather(0, b.indices) > 0))
    return int(is_firing.sum()), int((is_equal & is_firing).sum())


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"{len(results['rows'])} SAEs of {results['d_sae']} features with random weights on {results['n_tokens']:,} tokens of "
        f"{results['model']}; the top {results['n_top']} activations of each feature.",
        "",
        "| Format | Compared with | Firings differing | Largest activation | Largest difference | Top activations equal |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['format']} | {row['by']} | {row['n_firings_differing']} of {row['n_firings']:,} | "
        f"{row['max_activation']:.2f} | {row['max_difference']:.1e} | {row['n_top_equal']:,} of {row['n_top']:,} |"
        for row in results["rows"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
