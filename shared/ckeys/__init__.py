"""The command line of consumer-keys: local run, build and administration; never deployed."""
