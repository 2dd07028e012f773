"""rewrap's own records in etcd: frozen values, versioned JSON under the state prefix, changed by compare-and-swap."""
