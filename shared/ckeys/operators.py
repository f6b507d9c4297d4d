"""`ckeys operators` and `ckeys init`: who manages keys, and the first of them."""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from typing import Any

import click

from ckeys.reach import counted, home_option, one_sentence, services_of, visible
from consumer_keys.access import ROLES

_UNITS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class Span(click.ParamType[int]):
    """A length of time such as 90s, 30m, 24h or 7d, in milliseconds."""

    name = "time"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        """Milliseconds."""
        match = re.fullmatch(r"([0-9]{1,6})([smhd])", str(value))
        if match is None:
            self.fail("give a number and s, m, h or d, such as 24h", param, ctx)
        return int(match[1]) * _UNITS[match[2]]


@click.group()
def operators() -> None:
    """Who manages keys. The environment holds the functions' settings and a cloud credential, or use --home."""


def _show(secret_id: str, secret_key: str) -> None:
    click.echo(json.dumps({"secret_id": secret_id, "secret_key": secret_key}, indent=2))


@operators.command()
@click.argument("name")
@click.option("--role", required=True, type=click.Choice(sorted(ROLES)))
@click.option("--gateway", "gateways", multiple=True, help="Only this gateway; may be repeated. All if absent.")
@home_option
def add(name: str, role: str, gateways: tuple[str, ...], home: str | None) -> None:
    """Add an operator and show the secret key, this once."""
    from consumer_keys import operator_admin

    with one_sentence(), services_of(home) as app:
        _show(*operator_admin.add(app, name, role, gateways or None))


@operators.command("list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@home_option
def list_(as_json: bool, home: str | None) -> None:
    """List every operator; no secret is shown."""
    from consumer_keys import operator_admin

    with one_sentence(), services_of(home) as app:
        rows = operator_admin.listed(app)
    if as_json:
        click.echo(visible(json.dumps(rows, ensure_ascii=False, indent=2)))
        return
    table: list[tuple[str, ...]] = [("NAME", "SECRET ID", "ROLE", "GATEWAYS", "STATUS", "FORMER SECRET UNTIL")]
    for row in rows:
        gateways = "all" if row["gateways"] is None else ",".join(row["gateways"])
        until = row["former_secret_until"] or "-"
        cells = (row["name"], row["secret_id"], row["role"], gateways, row["status"], until)
        table.append(tuple(visible(cell).replace("\n", "\\n") for cell in cells))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@operators.command()
@click.argument("operator")
@click.option(
    "--keep", type=Span(), default="24h", show_default=True, help="How long the former secret is accepted; 0s: no more."
)
@home_option
def rotate(operator: str, keep: int, home: str | None) -> None:
    """Give an operator, by name or secret id, a new secret key and show it, this once."""
    from consumer_keys import operator_admin

    with one_sentence(), services_of(home) as app:
        _show(*operator_admin.rotate(app, operator, keep))


@operators.command()
@click.argument("operator")
@click.option("--force", is_flag=True, help="Even the last admin of all gateways.")
@home_option
def disable(operator: str, force: bool, home: str | None) -> None:
    """Refuse an operator, by name or secret id, from now on."""
    from consumer_keys import operator_admin

    with one_sentence(), services_of(home) as app:
        click.echo(f"{operator_admin.set_status(app, operator, 'Disable', force=force)} is disabled")


@operators.command()
@click.argument("operator")
@home_option
def enable(operator: str, home: str | None) -> None:
    """Let a disabled operator, by name or secret id, call again."""
    from consumer_keys import operator_admin

    with one_sentence(), services_of(home) as app:
        click.echo(f"{operator_admin.set_status(app, operator, 'Enable')} is enabled")


@click.command()
@click.argument("name")
def init(name: str) -> None:
    """Prepare a first deployment and add its first admin, called NAME.

    The environment holds the functions' settings and a credential that may use SSM, KMS and COS. Brings the database to
    the schema, makes the root secret if there is none, tries both KMS keys, publishes the first snapshot, and adds the
    admin if there is no operator yet. What is there is left as it is, so it may be run again.
    """
    from ckeys.database import durability_fault
    from ckeys.deployment import migrate_database
    from consumer_keys import config, operator_admin, wiring
    from consumer_keys.publish import PublicationRefused

    with one_sentence(PublicationRefused):
        settings = config.load(os.environ, wiring.NEEDS)
        before, after = migrate_database(settings.database_url or "")
        _say("schema", after if before == after else f"{before or 'none'} -> {after}")
        if fault := durability_fault(settings.database_url or ""):
            _say("warning", fault)
        with services_of(None) as app:
            _say("root secret", _root_secret(app))
            for setting in ("KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"):
                app.kms.generate_data_key(getattr(settings, setting.lower()), '{"app":"consumer-keys","trial":"1"}')
                _say(setting, "gives data keys")
            outcome = app.publisher.publish(heartbeat=True)
            _say("snapshot", f"version {outcome.version} in {settings.cos_bucket}" if outcome else "is being published")
            known = operator_admin.listed(app)
            # Last, because nobody sees the secret of an operator after whom something fails.
            pair = None if known else operator_admin.add(app, name, "admin")
    if pair is None:
        there = counted(len(known), "operator")
        _say("admin", f"{there} there already, so nothing was left to do; add more with `ckeys operators add`")
    else:
        _show(*pair)


def _say(what: str, how: str) -> None:
    click.echo(f"{what}: {how}", err=True)


def _root_secret(app: Any) -> str:
    """Found, or made: 32 random bytes that nobody has seen."""
    from consumer_keys.errors import Gone
    from consumer_keys.roots import ROOT_BYTES

    name = app.settings.root_secret_name
    version = app.store.read(lambda db: db.alive(app.settings.root_secret_version)).present
    try:
        app.ssm.secret_value(name, version)
    except Gone as gone:
        if not gone.cloud_code.startswith("ResourceNotFound"):
            raise
        root = b64encode(os.urandom(ROOT_BYTES)).decode()
        app.ssm.call("CreateSecret", attempts=1, SecretName=name, VersionId=version, SecretBinary=root)
        return f"{name} {version} made"
    return f"{name} {version} found"
