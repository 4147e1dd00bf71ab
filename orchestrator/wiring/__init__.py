"""The wiring under :class:`orchestrator.app.Orchestrator`: joins the parts of the packages below it for one app."""
