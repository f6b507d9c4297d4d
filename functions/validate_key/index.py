"""Judge a presented key: forward auth, POST /verify, or direct invocation. No SDK, no database, no pydantic."""

from consumer_keys import validate_wiring
from consumer_keys.light_typing import Any


def main_handler(event: Any, context: Any) -> Any:
    """Entry point of SCF."""
    return validate_wiring.handle(event, context)
