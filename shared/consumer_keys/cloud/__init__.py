"""The official SDKs, one module per service, so that a function carries only those that it calls."""
