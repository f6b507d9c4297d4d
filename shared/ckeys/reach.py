"""How commands reach a deployment: by the environment, or by the state folder of a local run."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import traceback
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from consumer_keys.errors import CloudFailure

ENVIRONMENT_FILE, OPERATOR_FILE = "environment.json", "operator.json"
OUR_PACKAGES = ("ckeys", "consumer_keys", "tencent_emulator")
# Unicode's control, format and surrogate characters, and the line and paragraph separators.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
home_option: Callable[[Any], Any] = click.option(
    "--home",
    envvar="CKEYS_HOME",
    show_envvar=True,
    help="State folder of a local run that is up; otherwise the environment holds the functions' settings.",
)


class Commands(click.Group):
    """Every command; one whose packages are not installed, as beside a gateway, says so."""

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command. Raises ClickException for a package that is missing."""
        try:
            return super().invoke(ctx)
        except ModuleNotFoundError as error:
            if (error.name or "").startswith(OUR_PACKAGES):
                raise
            raise click.ClickException(
                f"This command needs {error.name}, and only the validator is installed here;"
                " install requirements/local.txt as well."
            ) from None


def visible(text: str) -> str:
    """The text as it may go to a terminal: what could steer one is escaped as JSON does it, new lines are kept.

    So a JSON document stays the same document. Nothing of the kind gets in by a call, but a database may hold it.
    """
    if text.isprintable():
        return text
    return "".join(
        json.dumps(char)[1:-1] if char != "\n" and unicodedata.category(char) in _STEERING else char for char in text
    )


@contextlib.contextmanager
def services_of(home: str | None) -> Iterator[Any]:
    """The collaborators of the management functions. Raises ClickException for a folder without a local run."""
    from consumer_keys import wiring
    from consumer_keys.config import ConfigError
    from consumer_keys.errors import CloudFailure

    saved = dict(os.environ)
    try:
        if home is not None:
            os.environ.update(_local_environment(Path(home)))
        try:
            services = wiring.services()
        except ConfigError as error:
            hint = "" if home else " For a local run, name its state folder: --home or CKEYS_HOME."
            raise click.ClickException(f"The settings do not fit: {error}.{hint}") from None
        services.report_unpublished = _say_unpublished
        with texts_withheld():
            yield services
    except CloudFailure as failure:
        setting = setting_of(failure, os.environ)
        up = "" if home is None or listens(os.environ["CLOUD_ENDPOINT"]) else f" Is `make run` up, with {home}?"
        raise click.ClickException(f"A service does not do what is asked of it: {failure} ({setting}).{up}") from None
    finally:
        wiring.close()
        os.environ.clear()
        os.environ.update(saved)


@contextlib.contextmanager
def texts_withheld() -> Iterator[None]:
    """What nobody foresaw is shown by its kind and its places: its text may hold a value, as for `log`."""
    from consumer_keys.errors import CloudFailure, Problem

    try:
        yield
    except (click.ClickException, CloudFailure, Problem, BrokenPipeError):
        raise  # the last one ends `ckeys audit list | head` without a word
    except Exception as error:
        if getattr(error, "safe_to_log", False):
            raise
        traceback.print_tb(error.__traceback__)
        kind = type(error).__name__
        raise click.ClickException(
            f"Something failed inside: {kind}; its text may hold a value and is left out."
        ) from None


def setting_of(failure: CloudFailure, environ: Mapping[str, str]) -> str:
    """The settings that a failed call went by, with their values; of the database's only the name."""
    from consumer_keys.config import SETTINGS

    if failure.service == "database":
        return "DATABASE_URL"
    values = {setting.name: environ.get(setting.name) or setting.default for setting in SETTINGS}
    names = {
        "kms": ("KMS_KEY_ID", "KMS_OPERATOR_KEY_ID"),
        "cos": ("COS_BUCKET",),
        "ssm": ("ROOT_SECRET_NAME", "ROOT_SECRET_VERSION"),
    }.get(failure.service, ())
    told = [name for name in (*names, "TENCENTCLOUD_REGION", "CLOUD_ENDPOINT") if values[name]]
    return ", ".join(f"{name} is {values[name]}" for name in told)


def listens(endpoint: str) -> bool:
    """Whether anything accepts connections at host:port."""
    host, _, port = endpoint.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _say_unpublished(error: BaseException) -> None:
    from consumer_keys.errors import CloudFailure

    told = isinstance(error, CloudFailure) or getattr(error, "safe_to_log", False)
    why = str(error) if told else type(error).__name__
    click.echo(f"Done, but not published yet ({why}): validators learn of it with the timer's next tick.", err=True)


def _local_environment(home: Path) -> dict[str, str]:
    """What a command beside a local run goes by. Raises ClickException where it cannot be one deployment."""
    settings, pair = local_settings(home), local_operator(home)
    if os.environ.get("DATABASE_URL") not in (None, "", settings["DATABASE_URL"]):
        raise click.ClickException(
            f"CKEYS_HOME (or --home) names the local run in {home}, DATABASE_URL another database; unset one of them."
        )
    return {**settings, "TENCENTCLOUD_SECRETID": pair[0], "TENCENTCLOUD_SECRETKEY": pair[1]}


def local_settings(home: Path) -> dict[str, str]:
    """The settings of the local run in a state folder."""
    found = _read(home / ENVIRONMENT_FILE, "start the local run again")
    if not isinstance(found.get("DATABASE_URL"), str) or not isinstance(found.get("CLOUD_ENDPOINT"), str):
        raise click.ClickException(f"The file {home / ENVIRONMENT_FILE} is damaged; start the local run again.")
    return found


def local_operator(home: Path) -> tuple[str, str]:
    """(secret id, secret key) of the local run's operator."""
    remedy = "stop the local run, delete the file, and start it for a new operator"
    found = _read(home / OPERATOR_FILE, remedy)
    if not isinstance(found.get("secret_id"), str) or not isinstance(found.get("secret_key"), str):
        raise click.ClickException(f"The file {home / OPERATOR_FILE} is damaged; {remedy}.")
    return found["secret_id"], found["secret_key"]


def _read(path: Path, remedy: str) -> dict[str, str]:
    if path.parent.is_file():
        raise click.ClickException(f"{path.parent} is a file, no state folder; name a folder: --home or CKEYS_HOME.")
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise click.ClickException(
            f"There is no state of a local run in {path.parent}; start it with `make run`."
        ) from None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise click.ClickException(f"The file {path} is damaged; {remedy}.")
    return found


@contextlib.contextmanager
def one_sentence(*more: type[Exception]) -> Iterator[None]:
    """What a person can do something about becomes one sentence; everything else keeps its traceback."""
    from ckeys.deployment import DeploymentError
    from ckeys.events import EventError
    from ckeys.front import LoadError
    from ckeys.template import TemplateError
    from consumer_keys.config import ConfigError
    from consumer_keys.errors import CloudFailure, Problem
    from consumer_keys.store.database import SchemaMismatch
    from tencent_emulator.cloud import CloudError, StateError

    ours: tuple[type[Exception], ...] = (DeploymentError, EventError, LoadError, TemplateError, StateError)
    try:
        yield
    except ours + more as error:
        raise click.ClickException(visible(str(error))) from None
    except Problem as problem:
        raise click.ClickException(visible(problem.detail)) from None
    except (ConfigError, SchemaMismatch) as error:
        raise click.ClickException(f"The settings or the state do not fit: {error}.") from None
    except CloudError as error:
        raise click.ClickException(f"The state of the emulated cloud cannot be used: {error}.") from None
    except CloudFailure as error:
        raise click.ClickException(f"A service does not do what is asked of it: {error}.") from None
