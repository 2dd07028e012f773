"""The one door to etcd: a Store protocol, its two implementations, and their errors."""
