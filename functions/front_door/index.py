"""One Function URL for every route: finds the function and reaches it by SCF Invoke, passing the event on."""

from typing import Any

from consumer_keys import front_door


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return front_door.handle(event, context)
