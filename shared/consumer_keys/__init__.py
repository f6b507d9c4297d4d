"""Consumer keys for an AI gateway: the domain package, the only shared code that is deployed."""
