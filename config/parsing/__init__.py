"""Bytes of a configuration file to a plain tree with positions: YAML 1.1 as Go reads it, and JSON."""
