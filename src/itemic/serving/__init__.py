"""From a model to a running service: HTTP API, event and item store, configuration, client."""
