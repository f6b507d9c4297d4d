"""Two ways to fail: as the cloud would (CloudError), or because our own state is unusable (StateError)."""


class CloudError(Exception):
    """A refusal in the cloud's own words: `code` is the vendor's error code, `message` is ours and holds no secret."""

    def __init__(self, code: str, message: str = "") -> None:
        """Keep both parts; an empty message becomes a generic sentence, since SDKs expect one."""
        self.code = code
        self.message = message or f"The request failed with {code}."
        super().__init__(f"{code}: {self.message}")


class StateError(Exception):
    """The state folder cannot be used; the text is one sentence that names the file."""


class StateInUse(StateError):  # noqa: N818 - a state, not a mistake
    """Another emulator has the state folder."""
