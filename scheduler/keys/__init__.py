"""The keys of a cluster: who writes under them, how worn they are, whether they may go."""
