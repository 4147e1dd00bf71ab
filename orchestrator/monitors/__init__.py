"""The monitor manager: finds the dead and hands their work on."""
