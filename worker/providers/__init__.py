"""Kubernetes' encryption providers: they read and write values byte for byte as kube-apiserver does."""
