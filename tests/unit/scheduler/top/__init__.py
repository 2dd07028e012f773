"""Unit tests of scheduler.top."""
