"""Byte-true edits of an EncryptionConfiguration, each proven by reading the result again."""
