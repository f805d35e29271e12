"""`eyepiece users` and `eyepiece keys`: accounts and API keys from the command line, whose user is the operator."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from backend import errors, names
from backend.cli import connection
from backend.db.session import transaction
from backend.services import accounts, invitations, keys

app = typer.Typer(help="Accounts: add, list, disable, a new password.", no_args_is_help=True)
keys_app = typer.Typer(help="API keys of an account: add, list, revoke.", no_args_is_help=True)
console = Console(soft_wrap=True, highlight=False, markup=False)
Name = Annotated[str, typer.Argument(help="Of the account.")]
Data = Annotated[Path | None, typer.Option(help="Data folder; default `data`, or EYEPIECE_DATA.")]
Link = Annotated[
    bool, typer.Option("--link", help="Print a link to choose the password with, instead of asking for it.")
]


@app.command("add")
def add(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="It sees and changes everything.")] = False,
    link: Link = False,
    data: Data = None,
) -> None:
    """Add an account. Its password is asked for, or read from a line of standard input."""
    password = "" if link else _password(name)
    with connection.opened(data) as link_to, transaction(link_to.sessions) as session:
        account_id = accounts.add(session, name, password, is_admin=admin)
        console.print(f"{accounts.get(session, account_id).name} is {'an admin' if admin else 'in'}.")
        if link:
            console.print(_address(link_to) + names.set_up_url(invitations.invite(session, account_id)))


@app.command("list")
def show_all(data: Data = None) -> None:
    """List the accounts."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        table = Table("name", "", "since", box=None, pad_edge=False)
        for account in accounts.all_of(session):
            facts = (
                ("admin", account.is_admin),
                ("disabled", not account.is_active),
                ("no password yet", not account.has_password),
            )
            table.add_row(
                account.name, ", ".join(word for word, is_so in facts if is_so), f"{account.created_at:%Y-%m-%d}"
            )
        console.print(table)


@app.command("disable")
def disable(name: Name, data: Data = None) -> None:
    """Let an account in no more; it is signed out everywhere, and its keys are refused. What it owns stays."""
    _set_active(name, data, is_active=False)


@app.command("enable")
def enable(name: Name, data: Data = None) -> None:
    """Let a disabled account in again."""
    _set_active(name, data, is_active=True)


@app.command("password")
def set_password(name: Name, link: Link = False, data: Data = None) -> None:
    """Choose a new password for an account, which signs it out everywhere."""
    password = "" if link else _password(name)
    with connection.opened(data) as link_to, transaction(link_to.sessions) as session:
        account = accounts.named(session, name)
        if link:
            console.print(_address(link_to) + names.set_up_url(invitations.invite(session, account.id)))
        else:
            accounts.set_password(session, account.id, password)


@keys_app.command("add")
def add_key(
    account: Name,
    name: Annotated[str, typer.Option(help="What it is for.")] = "command line",
    scope: Annotated[str, typer.Option(help="read, write or admin.")] = "write",
    days: Annotated[int, typer.Option(help="Valid for so many; 0: for ever.")] = 365,
    data: Data = None,
) -> None:
    """Make an API key and print it: the only time it can be read."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        key = keys.add(session, accounts.named(session, account).id, name, scope, days=days)
    typer.echo(key)


@keys_app.command("list")
def show_keys(account: Name, data: Data = None) -> None:
    """List an account's keys, by what they begin with."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        table = Table("id", "key", "name", "scope", "expires", "last used", box=None, pad_edge=False)
        for key in keys.of_account(session, accounts.named(session, account).id):
            expires = f"{key.expires_at:%Y-%m-%d}" if key.expires_at else "never"
            used = f"{key.used_at:%Y-%m-%d}" if key.used_at else "never"
            table.add_row(str(key.id), f"{key.prefix}…", key.name, key.scope, expires, used)
        console.print(table)


@keys_app.command("revoke")
def revoke_key(
    account: Name, key_id: Annotated[int, typer.Argument(help="As `keys list` shows it.")], data: Data = None
) -> None:
    """Refuse a key from now on."""
    with connection.opened(data) as link, transaction(link.sessions) as session:
        keys.revoke(session, accounts.named(session, account).id, key_id)


def _set_active(name: str, data: Path | None, *, is_active: bool) -> None:
    with connection.opened(data) as link, transaction(link.sessions) as session:
        accounts.set_active(session, accounts.named(session, name).id, is_active=is_active)


def _password(name: str) -> str:
    """Asked for twice at a terminal, so that it is neither in the shell's history nor in the list of processes."""
    if sys.stdin.isatty():
        password: str = typer.prompt(f"Password for {name}", hide_input=True, confirmation_prompt=True)
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise errors.InvalidInputError(
            "No password was given.", hint="Type it, or send it as a line of standard input."
        )
    accounts.check_password(password)
    return password


def _address(link: connection.Connection) -> str:
    """Where people find the site; what the running one says of itself if no setting does."""
    public = link.settings.public_url.split(",")[0].strip().rstrip("/")
    return public or link.address
