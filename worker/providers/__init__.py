"""Kubernetes' encryption providers, byte for byte as kube-apiserver stores and reads them."""
