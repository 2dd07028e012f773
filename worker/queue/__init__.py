"""The Celery worker: gate, transports, application, tasks, and the execution of one message."""
