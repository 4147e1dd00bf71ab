"""The processes of a tree: started, probed, read and ended."""
