"""What the operator may set: groups, flags, variables, rules, logs."""
