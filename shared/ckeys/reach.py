"""How commands reach a deployment: by the environment, or by the state folder of a local run."""

from __future__ import annotations

import contextlib
import json
import os
import traceback
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

ENVIRONMENT_FILE = "environment.json"
# Unicode's control, format and surrogate characters, and the line and paragraph separators.
_STEERING = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
home_option: Callable[[Any], Any] = click.option(
    "--home",
    envvar="CKEYS_HOME",
    show_envvar=True,
    help="State folder of a local run that is up; otherwise the environment holds the functions' settings.",
)


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

    saved = dict(os.environ)
    try:
        if home is not None:
            os.environ.update(_local_environment(Path(home)))
        try:
            services = wiring.services()
        except ConfigError as error:
            hint = "" if home else " For a local run, name its state folder: --home or CKEYS_HOME."
            raise click.ClickException(f"The settings do not fit: {error}.{hint}") from None
        with texts_withheld():
            yield services
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


def _local_environment(home: Path) -> dict[str, str]:
    try:
        settings = json.loads((home / ENVIRONMENT_FILE).read_text(encoding="utf-8"))
        operator = json.loads((home / "operator.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise click.ClickException(f"There is no state of a local run in {home}; start it with `make run`.") from None
    credential = {"TENCENTCLOUD_SECRETID": "secret_id", "TENCENTCLOUD_SECRETKEY": "secret_key"}
    return {**settings, **{name: operator[field] for name, field in credential.items()}}


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
