"""Flower's settings: ``celery -A APP flower --conf=config/flower.py``.

Whoever reaches Flower can stop workers and see every message's arguments.
"""

# Only this machine; `--address` on the command line wins. To let others in, put a proxy with TLS in front, and
# have Flower ask for a login.
address = "127.0.0.1"

# Logins and secrets belong in the environment, which Flower reads itself:
#   FLOWER_BASIC_AUTH=user:password (or Google, GitHub, GitLab, Okta; see Flower's documentation)
#   FLOWER_COOKIE_SECRET=... signs logins and the tokens against forged requests (XSRF; always on). Without one,
#       a restart of Flower makes them void.
#   FLOWER_READ_ONLY=true: nobody can stop a worker or revoke a task from the browser.

# Memory for what has passed by.
max_tasks = 10_000
max_workers = 1_000
# Every restart of a worker is a worker of its own to Flower; forget those that have been gone for an hour.
purge_offline_workers = 3600

# Nothing is kept on disk: what matters is in Redis.
persistent = False
natural_time = True
