"""Dispatches batches: to this process' own engine, or (with the service) to a queue."""
