"""`ckeys audit`: reading and checking the audit log, beside the functions and with their settings."""

from __future__ import annotations

import json
from typing import Any

import click

from ckeys.reach import counted, home_option, one_sentence, services_of, visible


@click.group()
def audit() -> None:
    """Who did what: list the audit log, check that nobody changed it."""


@audit.command("list")
@home_option
@click.option("--gateway", help="Only rows of this gateway; otherwise all, those of the deployment included.")
@click.option("--actor", help="Who did it: an operator's secret_id, or the function's name.")
@click.option("--action", help="What was done, such as key.delete.")
@click.option("--target", help="The key, consumer or operator that it was done to.")
@click.option("--from", "from_", help="Not before this time (RFC 3339).")
@click.option("--to", help="Before this time (RFC 3339).")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="How many rows.")
def list_rows(home: str | None, gateway: str | None, limit: int, from_: str | None, **filters: str | None) -> None:
    """Print rows of the audit log, newest first, one line of JSON each."""
    from consumer_keys.audit import find
    from consumer_keys.fields import LIMIT_MAX
    from consumer_keys.model import ListAudit
    from consumer_keys.operation import validate

    given = {name: value for name, value in {"from": from_, **filters}.items() if value is not None}
    with one_sentence(), services_of(home) as app:
        declared = [each.gateway_id for each in app.settings.gateways]
        if gateway is not None and gateway not in declared:
            raise click.ClickException(f"The gateway is not declared; GATEWAYS has: {', '.join(declared)}.")
        cursor: str | None = None
        while limit > 0:
            page: dict[str, Any] = {"limit": min(limit, LIMIT_MAX), **({"cursor": cursor} if cursor else {}), **given}
            found = find(app, gateway, validate(ListAudit, page))
            for item in found["items"]:
                click.echo(visible(json.dumps(item, ensure_ascii=False)))
            cursor, limit = found["next_cursor"], limit - len(found["items"])
            if cursor is None:
                return


@audit.command()
@home_option
def verify(home: str | None) -> None:
    """Check every row against the hash chain and the signed heads; exit code 1 names the first bad row."""
    from consumer_keys.audit import verify as check

    with one_sentence(), services_of(home) as app:
        found = check(app)
    if found.fault is not None:
        raise click.ClickException(visible(found.fault))
    older = (
        f" Signed under a former root secret: {counted(found.unknown_heads, 'head')}." if found.unknown_heads else ""
    )
    rows, heads = counted(found.rows, "row"), counted(found.heads, "signed head")
    click.echo(f"{rows}, {heads}: every row is as it was written.{older}")
