"""The names of `typing` that validation uses, without the cost of importing it at a cold start (decision 0007).

Type checkers see the originals. At run time annotations are not looked at, so only `NamedTuple` has to do something.
"""

from __future__ import annotations

from collections import namedtuple

__all__ = ["TYPE_CHECKING", "Any", "NamedTuple", "Protocol"]

TYPE_CHECKING = False

if TYPE_CHECKING:
    from typing import Any, NamedTuple, Protocol
else:
    Any = Protocol = object

    class _Named(type):
        def __new__(mcs, name, _bases, body):
            """A named tuple with the annotated fields, their defaults, and whatever else the class body holds."""
            fields = body.get("__annotations__", {})
            defaults = [body.pop(field) for field in fields if field in body]
            made = namedtuple(name, fields, defaults=defaults, module=body["__module__"])
            for attribute, value in body.items():
                if attribute not in ("__module__", "__qualname__", "__classcell__"):
                    setattr(made, attribute, value)
            return made

    _BASE = type.__new__(_Named, "NamedTuple", (), {})

    def NamedTuple():  # noqa: N802 - typing's own spelling
        """Only to be derived from, as `typing.NamedTuple`."""

    NamedTuple.__mro_entries__ = lambda _bases: (_BASE,)
