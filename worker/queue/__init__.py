"""Celery's side: the gate, the application, its tasks, and what one message leads to."""
