"""What the operator says: the EncryptionConfiguration, where resources lie in etcd, the settings.

Pure: no event loop, no network, no clock. Imports nothing of `worker` or `scheduler`.
"""
