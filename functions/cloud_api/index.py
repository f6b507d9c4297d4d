"""The vendor's cloud API of consumer keys, for its official SDKs and command line."""

from typing import Any

from consumer_keys import wiring
from consumer_keys.cloud_api import entrance


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return entrance.handle(event, context, wiring.services)
