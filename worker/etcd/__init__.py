"""All access to etcd: the Store protocol, its implementation on a real etcd, and the errors."""
