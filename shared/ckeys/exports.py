"""`ckeys env`: what a shell needs to reach the local run with curl, tccli, the SDKs and our own commands."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import click

from ckeys.reach import listens, local_operator, local_settings


@click.command()
@click.option("--home", help="State folder [CKEYS_HOME, .ckeys].")
def env(home: str | None) -> None:
    """Print the exports with which curl, tccli, the SDKs and `ckeys` reach the local run."""
    folder = Path(home or os.environ.get("CKEYS_HOME") or ".ckeys").resolve()
    settings, (secret_id, secret_key) = local_settings(folder), local_operator(folder)
    host, _, cloud_port = settings["CLOUD_ENDPOINT"].rpartition(":")
    port = int(cloud_port) - 1
    # tccli reads the names with an underscore, our own code those of the execution role.
    pair = {"TENCENTCLOUD_SECRET_ID": secret_id, "TENCENTCLOUD_SECRET_KEY": secret_key}
    exports = {
        "CKEYS_HOME": str(folder),
        "CKEYS_URL": f"http://{host}:{port}",
        "CKEYS_TOKEN": secret_key,
        **pair,
        **{name.replace("SECRET_", "SECRET"): value for name, value in pair.items()},
        "TENCENTCLOUD_REGION": settings.get("TENCENTCLOUD_REGION") or "ap-guangzhou",
        "CLOUD_ENDPOINT": f"http://{host}:{cloud_port}",
        "COS_BUCKET": settings.get("COS_BUCKET", ""),
        "NO_PROXY": host,
    }
    for name, value in exports.items():
        click.echo(f"export {name}={shlex.quote(value)}")
    if not listens(f"{host}:{port}"):
        click.echo(f"Nothing listens on http://{host}:{port}; start the local run: make run", err=True)
