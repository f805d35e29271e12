"""The command `eyepiece`: a list of its subcommands. How they fail is in `failures`."""

import typer

from backend.cli import add, backup, check, compute, export, graph, import_, index, jobs, migrate, rm, token, up, users
from backend.cli.failures import Commands

app = typer.Typer(cls=Commands, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def eyepiece() -> None:
    """Self-hosted feature dashboards for sparse autoencoders."""


app.command()(up.up)
app.command()(add.add)
app.command("check", **compute.PASSED_ON)(check.check)
app.command("compute", **compute.PASSED_ON)(compute.compute)
app.command("import")(import_.import_dashboards)
app.command("export")(export.export_source)
app.command()(add.status)
app.command("jobs")(jobs.list_jobs)
app.command()(jobs.log)
app.command()(jobs.cancel)
app.command()(jobs.retry)
app.command("rerun")(jobs.rerun_source)
app.command()(rm.rm)
app.command("disk")(rm.show_disk)
app.command()(backup.backup)
app.command()(backup.restore)
app.add_typer(graph.app, name="graph")
app.add_typer(index.app, name="index")
app.add_typer(users.app, name="users")
app.add_typer(users.keys_app, name="keys")
app.add_typer(token.app, name="token")
app.command("migrate")(migrate.command_line)


def main() -> None:
    """Entry point of the installed script."""
    app(prog_name="eyepiece")


if __name__ == "__main__":
    main()
