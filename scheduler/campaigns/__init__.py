"""Campaigns: plan, batches, the loop and its transitions, pauses, the proof."""
