"""The rule of schedules: definitions, triggers, nominal times, and what is fired."""
