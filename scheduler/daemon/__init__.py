"""The scheduler's process: leader election, and what the leader does under one configuration."""
