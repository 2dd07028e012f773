"""The EncryptionConfiguration as frozen values, with upstream's verdicts, and where resources lie in etcd."""
