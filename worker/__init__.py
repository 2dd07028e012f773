"""What is done to bytes in etcd: read, open, seal, swap, prove.

Knows nothing of schedules or of the command line; imports `config` and nothing above itself.
"""
