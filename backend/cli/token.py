"""`eyepiece token`: the host's tokens of other services, kept sealed."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from backend import errors
from backend.cli import connection
from backend.db.session import transaction
from backend.services import secrets

app = typer.Typer(help="The host's tokens of other services: set, forget, list.", no_args_is_help=True)
console = Console(soft_wrap=True, highlight=False, markup=False)
Service = Annotated[str, typer.Argument(help="huggingface")]
Data = Annotated[Path | None, typer.Option(help="Data folder; default `data`, or EYEPIECE_DATA.")]


@app.command("set")
def put(service: Service, data: Data = None) -> None:
    """Keep a token. It is asked for, or read from a line of standard input, and never shown."""
    secrets.check_name(service)
    token = typer.prompt(f"Token of {service}", hide_input=True) if sys.stdin.isatty() else sys.stdin.readline()
    with connection.opened(data) as link, transaction(link.sessions) as session:
        secrets.put(session, link.settings, service, token, None)
    console.print(f"The {service} token is kept.")


@app.command("forget")
def forget(service: Service, data: Data = None) -> None:
    """Forget a token."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        if not secrets.forget(session, service, None):
            raise errors.NotFoundError(f"there is no {service} token.")
    console.print(f"The {service} token is forgotten.")


@app.command("list")
def show_all(data: Data = None) -> None:
    """List which tokens are kept."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        for found in secrets.of_owner(session, None):
            console.print(f"{found.name}, since {found.created_at:%Y-%m-%d}")
