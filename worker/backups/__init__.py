"""Backups of etcd, read offline: bbolt's file format, etcd's buckets in it, and what each key of the file opens."""
