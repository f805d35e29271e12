"""The command `eyepiece`: a list of its subcommands. How they fail is in `failures`."""

import typer

from backend.cli import add, compute, index, migrate, up
from backend.cli.failures import Commands

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def eyepiece() -> None:
    """Self-hosted feature dashboards for sparse autoencoders."""


app.command()(up.up)
app.command()(add.add)
app.command("compute", **compute.PASSED_ON)(compute.compute)
app.command()(add.status)
app.command("jobs")(add.list_jobs)
app.add_typer(index.app, name="index")
app.command("migrate")(migrate.command_line)


def main() -> None:
    """Entry point of the installed script."""
    app(prog_name="eyepiece")


if __name__ == "__main__":
    main()
