"""Which kube-apiservers there are, what each of them runs, and whether all have converged."""
