"""Reads, opens, seals, swaps and proves values in etcd.

Has no schedules and no command line; imports `config` and nothing above itself.
"""
