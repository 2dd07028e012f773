"""The scheduler's process: leader election, and the controllers that the leader runs under one configuration."""
