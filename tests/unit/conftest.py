"""Hypothesis finds the same examples in every run and has no deadline: a slow machine is no fault."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", deadline=None, derandomize=True)
settings.load_profile("unit")
