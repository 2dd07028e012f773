"""Rewraps a key range: reads values, opens them, seals them under the primary, and swaps them in."""
