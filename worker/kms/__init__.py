"""Asks KMS plugins to wrap and unwrap data keys, by gRPC over Unix sockets."""
