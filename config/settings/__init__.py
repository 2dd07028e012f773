"""The table of settings and what is made of it: flags, rules, the address of Redis, maintenance windows, logging."""
