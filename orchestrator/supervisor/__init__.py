"""``orchestrator supervise``: OTP's supervisor over the processes of a deployment. Standard library only."""
