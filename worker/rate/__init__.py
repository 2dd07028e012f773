"""Limits of the write rate: a rate ceiling, an adaptive window of swaps, a stop before etcd is full, and the brake."""
