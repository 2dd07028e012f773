"""The demonstration: a throw-away registry and throw-away servers."""
