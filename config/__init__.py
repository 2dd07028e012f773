"""What the operator gives: the EncryptionConfiguration, its edits, the paths of resources in etcd, the settings.

Pure: no event loop, no network, no clock. Imports nothing of `worker` or `scheduler`.
"""
