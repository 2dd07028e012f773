"""The leader's own checks and repairs: what it scans and requests by itself, and what it shows of them."""
