"""The command line: parser, output, exit codes; one module a command in `commands/`."""
