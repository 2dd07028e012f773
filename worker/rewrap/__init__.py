"""The main job: a key range, read, opened, sealed under the primary and swapped back."""
