"""The timeouts of messages at run time: overrides, and checks of what applies."""
