"""Follows the EncryptionConfiguration's file, and compares it with the generation on record."""
