"""The EncryptionConfiguration's file: followed, and compared with the generation on record."""
