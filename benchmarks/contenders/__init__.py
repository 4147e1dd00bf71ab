"""The same no-op task on each library, used as its own documentation recommends for throughput.

Each module has the task, and ``bulk(messages)``, which publishes that number of them in the quickest way it documents.
"""
