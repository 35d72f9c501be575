"""The press: what the Makefile calls to execute, store, copy and build the book."""
