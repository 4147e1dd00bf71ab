"""The definition of a deployment: read, completed and checked."""
