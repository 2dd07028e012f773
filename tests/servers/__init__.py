"""Real servers for tests, and what stands between a client and them. Nothing in here uses the code under test."""
