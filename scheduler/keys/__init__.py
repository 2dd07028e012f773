"""The keys of a cluster: counts of writes under each, alerts on their write budgets, verdicts on their removal."""
