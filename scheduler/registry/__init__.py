"""What etcd holds under one generation: ranges, objects by key, budgets, KEKs, the last proof."""
