"""Byte-true edits of an EncryptionConfiguration, each proven by parsing the result."""
