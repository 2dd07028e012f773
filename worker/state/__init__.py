"""Our own records in etcd: versioned JSON under the state prefix, changed by compare-and-swap."""
