"""Campaigns: discovery, batches, the loop and its transitions, requests, pauses, the proof."""
