"""`eyepiece compute`: the dashboards of SAEs of one model in this process, with no servers.

The same functions as the tasks, called in a row: prepare, encode by shards, finish, evaluate. Prints one JSON line with
wall and CPU seconds by stage; `compute_cpu_s` is what the dashboards cost: all but imports, evaluation and export.
Writes under --out: `dashboards.bin` (every feature packed), `contexts.npy`, `vocabulary.json`, `quality.json` (by
position), `summary.json`; `export/` on request. Several SAEs share one forward pass and have a folder of
their own each, named by the source's id.
"""

import gc
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, cast

import numpy as np
import orjson
import psutil
import typer
from rich.console import Console

from backend import errors, names
from backend.formats import dashboards as packed
from backend.formats import dense_sources, file_streams, neuronpedia_files, quality, sae_files
from backend.formats.quality import DENSE, Quality
from backend.services import catalog, features
from workers import runtime
from workers.compute import activation_index, parts
from workers.compute.corpus import Corpus
from workers.compute.encoder import ScreenName

Option = typer.Option
SHARD_TOKENS = 1 << 20


@dataclass(frozen=True, slots=True)
class _Summary:
    density: float
    fires_on: tuple[str, ...]


def compute(
    model: Annotated[str, Option(help="Local Hugging Face folder, or a hub name.")],
    out: Annotated[Path, Option(help="Folder to write.")],
    sae: Annotated[
        list[Path] | None, Option(help="SAELens folder, or a folder of them; may be given several times.")
    ] = None,
    neurons: Annotated[
        list[str] | None, Option(help="Hook point whose neurons are a source; may be given several times.")
    ] = None,
    vectors: Annotated[
        list[Path] | None, Option(help="Labelled vectors, .safetensors or .npz; may be given several times.")
    ] = None,
    corpus: Annotated[Path | None, Option(help="Text file, or folder of .txt files.")] = None,
    tokens: Annotated[Path | None, Option(help=".npy of token rows, used as they are.")] = None,
    source: Annotated[str, Option(help="Source id of one SAE; default {layer}-{folder}.")] = "",
    hook: Annotated[str, Option(help="Hook point, where it is not the one in cfg.json.")] = "",
    declare: Annotated[str, Option(help="JSON of what the SAE's files do not say; docs/formats.md.")] = "{}",
    context_size: Annotated[int, Option(help="Tokens a context; default the SAE's own.")] = 0,
    tokens_limit: Annotated[int, Option(help="Use at most this many tokens; 0 uses all.")] = 0,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, Option(help="Of the model: float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, Option(help="Torch threads; 0 uses the physical cores.")] = 0,
    memory: Annotated[float, Option(help="GB beyond the libraries; 0 uses half of what is free.")] = 0.0,
    screen: Annotated[str, Option(help="auto, fp32 or int8: changes the time, never the result.")] = "auto",
    seed: Annotated[int, Option(help="Of the interval samples.")] = 0,
    quality_tokens: Annotated[int, Option(help="Tokens a source's quality is measured on; 0: it is not.")] = 65_536,
    export: Annotated[str, Option(help="'neuronpedia' also writes its layout under OUT/export.")] = "",
) -> None:
    """Compute dashboards in this process, with no servers."""
    if (corpus is None) == (tokens is None):
        raise errors.InvalidInputError("give either --corpus or --tokens.")
    if export not in ("", "neuronpedia"):
        raise errors.InvalidInputError(f"--export '{export}' is unknown.", hint="Known: neuronpedia.")
    spec = runtime.Spec(
        corpus=str((corpus or tokens or Path()).resolve()), is_tokens=tokens is not None, hook_point=hook,
        context_size=context_size, max_tokens=tokens_limit, device=device, dtype=dtype, threads=threads,
        screen=cast(ScreenName, screen), seed=seed, quality_tokens=quality_tokens, memory_gb=memory,
    )  # fmt: skip
    folders = [folder.resolve() for given in sae or () for folder in sae_files.folders_of(given)]
    folders += [Path(f"{dense_sources.NEURONS}{hook_point}") for hook_point in neurons or ()]
    folders += [path.resolve() for path in vectors or ()]
    if not folders:
        raise errors.InvalidInputError("nothing to compute.", hint="Give --sae, --neurons or --vectors.")
    if source and len(folders) > 1:
        raise errors.InvalidInputError(f"--source names one SAE; {len(folders)} are given.", hint="Leave it out.")
    console = Console(stderr=True)
    clock = runtime.Stopwatch()
    clock.add("import", time.time() - psutil.Process().create_time(), time.process_time())
    with TemporaryDirectory(prefix="eyepiece-") as scratch, console.status("preparing") as status:
        with clock.stage("prepare"):
            loaded = runtime.load(model, folders, spec, sae_files.declared_of(declare, hook_point=hook))
            rows, longer = runtime.build_corpus(loaded, spec)
        gc.freeze()  # model and libraries stay to the end: a full collection need not walk them
        with clock.stage("encode"):
            size = runtime.batch_contexts(loaded, spec, rows)
            of_sources = _encode(loaded, rows, size, spec, Path(scratch), status.update)
        results = []
        for folder, of, postings in zip(folders, loaded.sources, of_sources, strict=True):
            source_id = source or dense_sources.default_source_id(str(folder), of.capture.hook_point)
            into = out if len(folders) == 1 else out / source_id
            with clock.stage("finish"):
                found = []
                for block in runtime.finish(
                    loaded, of, postings, rows, seed=seed, memory_gb=memory, batch_contexts=size
                ):
                    found += block
                    status.update(f"finishing {source_id}: {len(found):,} of {of.sae.d_sae:,} features")
            measured = None
            if quality_tokens and not of.sae.description.is_dense:
                status.update(f"evaluating {source_id}")
                with clock.stage("evaluate"):
                    measured = runtime.evaluate(loaded, of, rows, longer, spec)
            with clock.stage("write"):
                results.append({"source": source_id} | _write(into, loaded, rows, found, measured))
            if export:
                with clock.stage("export"):
                    ref = (Path(model).name, source_id, Path(spec.corpus).name)
                    _export(into / "export", loaded, of, rows, found, ref)
    line = (results[0] if len(results) == 1 else {"sources": results}) | clock.report()
    (out / "summary.json").write_bytes(orjson.dumps(line, option=orjson.OPT_INDENT_2))
    typer.echo(json.dumps(line))


def _encode(
    loaded: runtime.Loaded, rows: Corpus, size: int, spec: runtime.Spec, scratch: Path, say: Callable[[str], None]
) -> list[list[parts.Part]]:
    """Of each source, the parts of all shards in order of context, as files under `scratch`."""
    n_done = 0

    def on_batch(n_tokens: int) -> None:
        nonlocal n_done
        n_done += n_tokens
        say(f"encoding: {n_done:,} of {rows.rows.size:,} tokens")

    made: list[list[parts.Part]] = [[] for _ in loaded.sources]
    for first, n in activation_index.shards(rows.n_contexts, n_shards=_n_shards(rows), size=size):
        found = runtime.encode(
            loaded, rows, first_context=first, n_contexts=n, batch_contexts=size, memory_gb=spec.memory_gb, on_batch=on_batch
        )  # fmt: skip
        for i, part in found:
            path = scratch / f"{i}-{len(made[i])}.postings"
            part.write(path, {})
            del part  # else it is held while the next part is gathered
            made[i].append(parts.read(path))
    return made


def _n_shards(rows: Corpus) -> int:
    """Shards bound the memory of the transpose; the dashboards are the same bytes however many there are."""
    return max(1, round(rows.rows.size / SHARD_TOKENS))


def _write(
    out: Path, loaded: runtime.Loaded, rows: Corpus, found: list[packed.Dashboard], measured: Quality | None
) -> dict[str, Any]:
    """One source's files, and what there is to say of it."""
    out.mkdir(parents=True, exist_ok=True)
    blobs = [packed.pack(dashboard) for dashboard in found]
    offsets = np.cumsum([0, *map(len, blobs)], dtype=np.int64)
    np.save(out / "offsets.npy", offsets)
    (out / "dashboards.bin").write_bytes(b"".join(blobs))
    np.save(out / "contexts.npy", rows.rows)
    (out / "vocabulary.json").write_bytes(orjson.dumps(loaded.vocabulary))
    n_firings = sum(dashboard.n_firings for dashboard in found)
    n_tokens = rows.n_tokens
    said: dict[str, Any] = {}
    if measured is not None:
        (out / "quality.json").write_bytes(orjson.dumps(quality.to_json(measured)))
        said = {"quality": _figures(measured)}
    activations = math.fsum(d.moments.mean * d.n_firings for d in found if d.n_firings)
    return {
        "n_features": len(found),
        "n_alive": sum(dashboard.n_firings > 0 for dashboard in found),
        "n_contexts": rows.n_contexts,
        "n_tokens": n_tokens,
        "n_firings": n_firings,
        "n_dense": sum(dashboard.n_firings > DENSE * n_tokens for dashboard in found),
        "mean_l0": round(n_firings / n_tokens, 4),
        "mean_l1": round(activations / n_tokens, 4),
        "bytes_per_feature": round(int(offsets[-1]) / len(found)),
        **said,
    }


def _figures(measured: Quality) -> dict[str, Any]:
    """The metrics over each sample; by position they are in `quality.json`."""
    samples = {"corpus": measured.corpus, "longer": measured.longer}
    return {
        name: {"context_size": of.context_size, "n_contexts": of.n_contexts, "n_tokens": of.n_tokens}
        | {metric: {"value": m.value, "standard_error": m.standard_error} for metric, m in of.metrics.items()}
        for name, of in samples.items()
        if of is not None
    } | {"notes": measured.notes}


def _export(
    out: Path,
    loaded: runtime.Loaded,
    of: runtime.LoadedSource,
    rows: Corpus,
    found: list[packed.Dashboard],
    ref: tuple[str, str, str],
) -> None:
    """Neuronpedia's layout; `ref` is model, source and the corpus's name."""
    model, source, corpus = ref
    now = datetime.now(UTC)
    facts = runtime.model_facts(loaded)
    sae = of.sae.description
    view = catalog.SourceView(
        model=model, name=source, set_name=names.source_set_of(source), hook_point=str(of.capture.hook_point),
        layer=of.capture.hook_point.layer, architecture=sae.architecture, d_in=sae.d_in, d_sae=sae.d_sae,
        config=sae.config, created_at=now, revision_id=0, corpus=corpus, n_corpus_tokens=rows.n_tokens,
        n_corpus_contexts=rows.n_contexts, context_size=rows.rows.shape[1], computed_at=now,
    )  # fmt: skip
    texts, n_tokens = loaded.vocabulary, rows.n_tokens
    near = {d.index: _Summary(d.n_firings / n_tokens, tuple(texts[token] for token in d.top_tokens)) for d in found}
    contexts = {int(index): rows.rows[index] for d in found for index in d.examples.context}
    packs = (features.Packed(d, near[d.index].density, near[d.index].fires_on) for d in found)
    n_hidden = int(rows.is_first_masked)
    views = (features.expand(each, view, contexts, texts, near, n_hidden=n_hidden) for each in packs)
    model_facts = catalog.ModelFacts(
        model, model, model, facts.architecture, facts.n_layers, facts.d_model, facts.n_context, now
    )
    source_set = catalog.SourceSetFacts(model=model, name=view.set_name, description="", created_at=now)
    heads = neuronpedia_files.Heads(model_facts, source_set, view)
    file_streams.write_folder(out, neuronpedia_files.files(heads, views, ()))


def main() -> None:
    """Run, and print expected errors as one line."""
    try:
        command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        command.command()(compute)
        command(prog_name="eyepiece compute")
    except errors.SiteError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
