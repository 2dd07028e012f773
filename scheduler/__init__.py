"""Decides what workers do to the cluster, and when: campaigns, rotations, removal of keys. Never decrypts."""
