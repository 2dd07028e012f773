"""Rotation: the steps (pure), the driver, its probes of the cluster, the replacement of the file."""
