"""kube-rewrap: rewraps Kubernetes objects in etcd after the EncryptionConfiguration changed, and proves it.

The packages are links to the folders at the top of the repository.
"""
