"""`ckeys`: the local run, replaying events, and the database's schema."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from ckeys.audit import audit
from ckeys.exports import env
from ckeys.keys import keys
from ckeys.operators import init, operators
from ckeys.reach import Commands, counted, home_option, one_sentence, services_of, visible
from ckeys.rotate_root import rotate_root

PORT_DEFAULT = 9000
PLACEHOLDER = "00000000-0000-0000-0000-00000000000"


def _home(text: str | None) -> Path:
    return Path(text or os.environ.get("CKEYS_HOME") or ".ckeys").resolve()


def _port() -> int:
    text = os.environ.get("CKEYS_PORT") or str(PORT_DEFAULT)
    if not text.isdecimal() or not 1 <= int(text) <= 65534:
        raise click.ClickException(f"CKEYS_PORT is {text!r}; it must be a port number from 1 to 65534.")
    return int(text)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="consumer-keys", prog_name="ckeys")
def cli() -> None:
    """Consumer keys for an AI gateway: run it here, replay events, manage the schema."""


@cli.command()
@click.option("--home", help="State folder [CKEYS_HOME, .ckeys].")
@click.option("--port", type=click.IntRange(1, 65534), help="Port of the API; the emulated cloud takes the next one.")
def run(home: str | None, port: int | None) -> None:
    """Run everything on this machine: functions, timers, database and the emulated cloud."""
    from ckeys.local import LocalRun

    with one_sentence():
        LocalRun(_home(home), port or _port()).run()


@cli.command()
@click.argument("function")
@click.option("-e", "--event", "event_file", required=True, type=click.Path(path_type=Path), help="Event file.")
@click.option("--home", help="State folder of a local run that is down; otherwise sample data, thrown away.")
def invoke(function: str, event_file: Path, home: str | None) -> None:
    """Call one function with an event file and print what it returns; its log goes to standard error."""
    from ckeys.deployment import Deployment
    from ckeys.events import read_event
    from ckeys.samples import GATEWAYS, SampleError, fill, seed

    with one_sentence(SampleError), contextlib.ExitStack() as stack:
        event = read_event(event_file)
        answers = sys.stdout
        stack.callback(setattr, sys, "stdout", answers)
        sys.stdout = io.StringIO()  # what the preparation logs is of no interest
        if home is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ckeys-invoke-")))
            environ = {**os.environ, "GATEWAYS": GATEWAYS}
            deployment = stack.enter_context(Deployment(folder / "home", durable=False, environ=environ))
        else:
            deployment = stack.enter_context(Deployment(_home(home)))
        if function not in deployment.handlers:
            raise click.ClickException(f"There is no function {function}; template.yaml has: {_names(deployment)}.")
        values = {"operator.admin": deployment.operator[1]} if home else seed(deployment)
        sys.stdout = sys.stderr
        result = deployment.call(function, fill(event, values))
        answers.write(visible(json.dumps(result, ensure_ascii=False, indent=2)) + "\n")


def _names(deployment: Any) -> str:
    return ", ".join(function.name for function in deployment.template.functions)


@cli.command()
def migrate() -> None:
    """Bring the database of DATABASE_URL to the schema that this code needs."""
    from ckeys.database import durability_fault
    from ckeys.deployment import migrate_database as bring_up
    from consumer_keys import config

    with one_sentence():
        url = config.load(os.environ, ("DATABASE_URL",)).database_url or ""
        before, after = bring_up(url)
    if fault := durability_fault(url):
        click.echo(f"Warning: {fault}", err=True)
    click.echo(f"schema {after}" if before == after else f"schema {before or 'none'} -> {after}")


@cli.command()
@click.option("--may-shrink", is_flag=True, help="Publish although the snapshot loses more than 30 % of its values.")
@home_option
def publish(may_shrink: bool, home: str | None) -> None:
    """Publish the snapshot now; the environment holds the functions' settings and a cloud credential, or use --home."""
    from consumer_keys.publish import PublicationRefused

    with one_sentence(PublicationRefused), services_of(home) as app:
        outcome = app.publisher.publish(heartbeat=True, may_shrink=may_shrink)
    click.echo(json.dumps(outcome and outcome._asdict()))


@cli.command()
@click.argument("functions", nargs=-1)
@click.option("--out", type=click.Path(path_type=Path), default=Path(".build"), show_default=True, help="Folder.")
@click.option("--python", default=sys.executable, help="Interpreter of the runtime's version [this one].")
@click.option("--here", is_flag=True, help="Build for this machine and interpreter instead of the template's runtime.")
def build(functions: tuple[str, ...], out: Path, python: str, here: bool) -> None:
    """Make each function's package: its code, the packages that it reaches, and bytecode."""
    from ckeys.build import BuildError
    from ckeys.build import build as make
    from ckeys.deployment import ROOT
    from ckeys.template import load_template

    with one_sentence(BuildError):
        for package in make(ROOT, load_template(ROOT / "template.yaml"), out, python=python, here=here, only=functions):
            size = package.zip_bytes / 1e6
            click.echo(f"{package.function:<18} {size:6.2f} MB zipped, {len(package.distributions)} packages")


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8180, show_default=True, help="Port to listen on.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes [one per core].")
@click.option("--log-all", is_flag=True, help="A line of JSON per request; costs most of the speed.")
def validator(host: str, port: int, workers: int | None, log_all: bool) -> None:
    """Serve validation to gateways on this machine, from the snapshot alone.

    The environment holds the settings of validate_key and its credential. Paths and answers are those of the function;
    GET /healthz is 200 while there is a usable snapshot. Standard output gets one line of JSON per refused request, per
    /verify, per failure, and per request that is out of the ordinary, such as one with the same header twice.
    """
    from ckeys.validator import ValidatorError, serve

    try:
        serve(host, port, workers or os.cpu_count() or 1, log_all=log_all)
    except ValidatorError as error:
        raise click.ClickException(str(error)) from None


def _resealed(count: int) -> None:
    click.echo(f"{counted(count, 'value')} sealed anew ...", err=True)


@cli.command("rotate-data-keys")
@click.option("--older-than", "days", type=click.FloatRange(0), default=30, show_default=True, help="Days.")
@click.option("--batch", type=click.IntRange(1, 5000), default=200, show_default=True, help="Values per transaction.")
@click.option("--rewrap", is_flag=True, help="First wrap every data key anew, after a rotation or change of KMS keys.")
@home_option
def rotate_data_keys(days: float, batch: int, rewrap: bool, home: str | None) -> None:
    """Seal values and operators' secrets anew that are under old data keys; may be stopped and repeated at any time.

    A data key that nothing refers to any longer is destroyed by a later run, 15 minutes after it was seen unused. The
    environment holds the functions' settings and a credential of the administrator's role, or use --home.
    """
    from consumer_keys import data_keys

    with one_sentence(), services_of(home) as app:
        report: dict[str, Any] = {"rewrapped": data_keys.rewrap(app, batch)} if rewrap else {}
        report |= data_keys.rotate(app, days, batch, progress=_resealed)
    click.echo(json.dumps(report, indent=2))
    if report["values"]["broken"] or report["operators"]["broken"]:
        raise click.ClickException("Some values do not open; their owners are listed, and nothing of them was changed.")


@cli.command()
def routes() -> None:
    """Print the routes of template.yaml as front_door's setting FRONT_DOOR_ROUTES."""
    from ckeys.deployment import ROOT, front_door_routes
    from ckeys.template import load_template

    with one_sentence():
        click.echo(front_door_routes(load_template(ROOT / "template.yaml")))


@cli.command()
def openapi() -> None:
    """Print the OpenAPI 3.1 document of every route."""
    from ckeys.deployment import ROOT
    from ckeys.front import load_handlers
    from ckeys.openapi import text
    from ckeys.template import load_template

    with one_sentence(LookupError):
        template = load_template(ROOT / "template.yaml")
        click.echo(text(template, load_handlers(ROOT / "functions", template)), nl=False)


@cli.command()
@click.option("--uin", required=True, help="The UIN of your account's root.")
@click.option("--out", type=click.Path(path_type=Path), default=Path(".build/policies"), show_default=True)
@click.option("--any-secret", is_flag=True, help="Take an empty CREDENTIAL_PREFIX: every secret may be followed.")
def policies(uin: str, out: Path, any_secret: bool) -> None:
    """Write the CAM policy of each role, with the names of template.yaml and of the environment in it."""
    from ckeys.deployment import ROOT
    from ckeys.policies import PolicyError
    from ckeys.policies import policies as rendered
    from ckeys.template import load_template

    unset = False
    with one_sentence(PolicyError):
        template = load_template(ROOT / "template.yaml")
        given = {name: text for name, text in os.environ.items() if text}
        for role, policy in rendered(ROOT, template, uin, given, any_secret=any_secret).items():
            out.mkdir(parents=True, exist_ok=True)
            (out / f"{role}.json").write_text(json.dumps(policy, indent=2) + "\n", encoding="utf-8")
            click.echo(out / f"{role}.json")
            unset = unset or PLACEHOLDER in json.dumps(policy)
    if unset:
        click.echo("These policies hold template.yaml's placeholders of KMS keys: put your own there first.", err=True)


for command in (audit, env, init, keys, operators, rotate_root):
    cli.add_command(command)

if __name__ == "__main__":
    cli()
