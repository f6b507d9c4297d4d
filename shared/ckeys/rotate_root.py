"""`ckeys rotate-root`: a new root secret without one wrong denial."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from ckeys.reach import counted, home_option, one_sentence, services_of

_batch = click.option("--batch", type=click.IntRange(1, 5000), default=200, show_default=True, help="Per transaction.")


@click.group("rotate-root")
def rotate_root() -> None:
    """Give the deployment a new root secret: begin, backfill, deploy the validators, finish.

    Each step may be stopped and repeated at any time, but once begun there is no way back. Callers' keys and operators'
    secrets stay what they are. The environment holds the functions' settings and a credential of the administrator's
    role, or use --home.
    """


def _show(report: dict[str, Any]) -> None:
    click.echo(json.dumps(report, indent=2))


def _progress(count: int) -> None:
    click.echo(f"{counted(count, 'value')} done ...", err=True)


@rotate_root.command()
@click.option("--version", help="Name of the new version in SSM [the present one's, counted on].")
@click.option("--yes", is_flag=True, help="Do not ask.")
@home_option
def begin(version: str | None, yes: bool, home: str | None) -> None:
    """Make the new version in SSM; from now on everything that is written counts for both.

    This cannot be taken back: a rotation that has begun has to be finished.
    """
    from consumer_keys.root_rotation import RotationRefused
    from consumer_keys.root_rotation import begin as start

    if not yes:
        click.confirm("A rotation cannot be taken back, only finished. Begin?", abort=True, err=True)
    with one_sentence(RotationRefused), services_of(home) as app:
        _show(start(app, version))
    click.echo("Begun; this cannot be taken back, only finished.", err=True)


@rotate_root.command()
@_batch
@home_option
def backfill(batch: int, home: str | None) -> None:
    """Let everything that was there before count for the new version too, and publish."""
    from consumer_keys.publish import PublicationRefused
    from consumer_keys.root_rotation import RotationRefused
    from consumer_keys.root_rotation import backfill as fill

    with one_sentence(RotationRefused, PublicationRefused), services_of(home) as app:
        _show(report := fill(app, batch, pause=time.sleep, progress=_progress))
    if report["phase"] == "incomplete":
        raise click.ClickException("Something is missing still; former contents end by themselves.")


@rotate_root.command()
@home_option
def status(home: str | None) -> None:
    """Say which versions are alive, what is missing, and what comes next."""
    from consumer_keys.root_rotation import status as look

    with one_sentence(), services_of(home) as app:
        _show(look(app))


@rotate_root.command()
@click.option("--readers-moved", is_flag=True, help="No validator runs with the former version any longer.")
@_batch
@home_option
def finish(readers_moved: bool, batch: int, home: str | None) -> None:
    """End the former version: only the new one is alive."""
    from consumer_keys.publish import PublicationRefused
    from consumer_keys.root_rotation import RotationRefused
    from consumer_keys.root_rotation import finish as end

    with one_sentence(RotationRefused, PublicationRefused), services_of(home) as app:
        _show(end(app, batch, readers_moved=readers_moved, progress=_progress))
