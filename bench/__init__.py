"""What a rewrap costs, measured on this machine against servers of its own: `python -m bench`."""
