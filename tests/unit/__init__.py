"""Rules that can be stated without a deployment, one module at a time."""
