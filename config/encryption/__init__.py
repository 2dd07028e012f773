"""The EncryptionConfiguration as frozen values, with upstream's verdicts, and the paths of resources in etcd."""
