"""The kube-apiservers: their number, the configuration that each runs, and whether all have converged."""
