"""The screen of `rewrap top`."""
