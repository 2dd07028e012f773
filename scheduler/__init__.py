"""What shall be done, and when: senses, decisions, dispatch, and the command line. Never decrypts."""
