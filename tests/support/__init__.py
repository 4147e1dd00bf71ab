"""What tests of several packages use: real servers, real workers, and ways to wait for events."""
