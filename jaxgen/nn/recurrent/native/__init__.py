"""The recurrence of gated cells in native code, for CPUs."""
