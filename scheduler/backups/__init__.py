"""Backups as the operator asks for them: inspected under one configuration, proven under several."""
