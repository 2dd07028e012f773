"""How fast work may go: a rate ceiling, an adaptive window, and the brake before etcd is full."""
