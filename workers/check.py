"""`eyepiece check`: what an SAE says of itself, what is wrong with it, and a quick look at it; needs no database.

Ends with 0 where nothing is wrong, `WARNED` where there are warnings, and 1 where an SAE cannot be used, or should not.
Without a corpus it takes the help topics of the Python that runs it: English prose that every installation carries.
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from backend import errors
from backend.formats import look as formats
from backend.formats import sae_files
from backend.formats.look import Fit, Look
from backend.formats.sae_files import SaeDescription
from demo import stdlib_text
from workers import runtime
from workers.compute import documents

Option = typer.Option
WARNED = 3
MAX_TOKENS = 1 << 17
"""Of the corpus; the look takes its contexts from all over them."""
_STYLES = {"fatal": "bold red", "warning": "yellow", "note": ""}


@dataclass(frozen=True, slots=True)
class Checked:
    """What there is to say of one SAE."""

    folder: Path
    description: SaeDescription | None
    """None where its files cannot be read."""
    problems: tuple[str, ...]
    """Why it cannot be run, if it cannot."""
    look: Look | None
    """None where there are problems, and for what is no SAE."""

    @property
    def exit_status(self) -> int:
        """0 fine, `WARNED`, or 1."""
        if self.problems or (self.look and self.look.fatal):
            return 1
        return WARNED if self.look and self.look.warnings else 0


def check(
    model: Annotated[str, typer.Argument(help="Local Hugging Face folder, or a hub name.")],
    sae: Annotated[list[Path], Option(help="SAE folder, or a folder of them; may be given several times.")],
    corpus: Annotated[Path | None, Option(help="Text file, or folder of .txt files; default: Python's help.")] = None,
    tokens: Annotated[Path | None, Option(help=".npy of token rows, used as they are.")] = None,
    hook: Annotated[str, Option(help="Hook point, where it is not the one in the configuration.")] = "",
    context_size: Annotated[int, Option(help="Tokens a context; default the SAE's own.")] = 0,
    device: Annotated[str, Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, Option(help="Of the model: float32, bfloat16 or float16.")] = "float32",
    threads: Annotated[int, Option(help="Torch threads; 0 uses the physical cores.")] = 0,
    as_json: Annotated[bool, Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Look at SAEs of a model before any work: files, place, way of running."""
    if corpus is not None and tokens is not None:
        raise errors.InvalidInputError("give --corpus or --tokens, not both.")
    folders = [folder.resolve() for given in sae for folder in sae_files.folders_of(given)]
    with TemporaryDirectory(prefix="eyepiece-") as scratch:
        text = corpus or tokens or _python_help(Path(scratch))
        spec = runtime.Spec(
            corpus=str(text.resolve()), is_tokens=tokens is not None, hook_point=hook, context_size=context_size,
            max_tokens=MAX_TOKENS, device=device, dtype=dtype, threads=threads, quality_tokens=0,
        )  # fmt: skip
        resident = runtime.Resident()
        found = [check_one(resident, model, folder, spec) for folder in folders]
    if as_json:
        typer.echo(json.dumps({"saes": [_as_json(each) for each in found]}))
    else:
        console = Console(highlight=False)
        for each in found:
            _print(console, each)
    statuses = [each.exit_status for each in found]
    raise typer.Exit(1 if 1 in statuses else max(statuses))


def check_one(resident: runtime.Resident, model: str, folder: Path, spec: runtime.Spec) -> Checked:
    """One SAE; its own mistakes are told, not raised.

    Raises:
        SiteError: The model cannot be loaded.
    """
    resident.get(model, [], spec)  # a model that cannot be loaded is not the SAE's problem
    description = None
    try:
        description = sae_files.describe(folder)
        loaded = resident.get(model, [runtime.SaeFiles(str(folder))], spec)
        rows, _ = runtime.build_corpus(loaded, spec)
        return Checked(folder, description, (), runtime.look(loaded, loaded.sources[0], rows))
    except errors.ProblemsError as error:
        return Checked(folder, description, error.problems, None)
    except errors.SiteError as error:
        return Checked(folder, description, (str(error),), None)


def _python_help(scratch: Path) -> Path:
    topics = (document.text for document in stdlib_text.documents() if document.name.startswith("topics/"))
    path = scratch / "python-help.txt"
    path.write_text(documents.SEPARATOR.join(topics), encoding="utf-8")
    return path


def _as_json(checked: Checked) -> dict[str, Any]:
    described = None
    if checked.description is not None:
        described = {name: _plain(value) for name, value in dataclasses.asdict(checked.description).items()}
        described |= {"hook_point": str(checked.description.hook_point), "folder": str(checked.folder)}
        described |= {"hook_point_out": str(checked.description.hook_point_out)}
    return {
        "folder": str(checked.folder),
        "description": described,
        "problems": checked.problems,
        "look": None if checked.look is None else formats.to_json(checked.look),
    }


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else value


def _print(console: Console, checked: Checked) -> None:
    console.print(f"[bold]{checked.folder.name}[/]", soft_wrap=True)
    if checked.description is not None:
        said = checked.description
        bos = "with" if said.prepend_bos else "without"
        console.print(
            f"{said.architecture} ({said.format}), {said.d_in:,} × {said.d_sae:,}, at {said.hook_point}, "
            f"contexts of {said.context_size or 'no stated number of'} tokens {bos} BOS",
            soft_wrap=True,
        )
    for problem in checked.problems:
        console.print(f"[bold red]problem:[/] {problem}", soft_wrap=True)
    if checked.look is not None:
        _print_look(console, checked.look)
    console.print()


def _print_look(console: Console, look: Look) -> None:
    table = Table("run", "explained variance", "L0", "", box=None, pad_edge=False)
    table.add_row(f"as declared, at {look.hook_point}", *_figures(look.fit), "")
    for each in look.candidates:
        table.add_row(each.what, *_figures(each.fit), "better" if each.is_better else "")
    console.print(
        f"{look.n_tokens:,} tokens; {look.n_fired:,} of {look.d_sae:,} features fire; activations have norm "
        f"{look.mean_norm:.4g}, decoder rows {look.decoder_norms[0]:.3g} to {look.decoder_norms[1]:.3g}",
        soft_wrap=True,
    )
    console.print(table)
    for finding in look.findings:
        style = _STYLES[finding.severity]
        label = f"[{style}]{finding.severity}:[/]" if style else f"{finding.severity}:"
        console.print(f"{label} {finding.sentence} {finding.advice}", soft_wrap=True)
    if not look.fatal + look.warnings:
        console.print("nothing looks wrong")


def _figures(fit: Fit) -> tuple[str, str]:
    share = "undefined" if fit.explained_variance is None else f"{fit.explained_variance:.1%}"
    return share, f"{fit.l0:,.1f}"


def main() -> None:
    """Run, and print expected errors as one line."""
    try:
        command = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        command.command()(check)
        command(prog_name="eyepiece check")
    except errors.SiteError as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
