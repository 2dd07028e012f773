"""Decides what is done to the cluster, and when: campaigns, rotations, keys. Never decrypts."""
