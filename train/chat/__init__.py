"""Conversations with a policy: on the terminal, in a pipe, and on a web page."""
