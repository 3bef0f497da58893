"""One file a measure: a function of a probe, registered by name. All of them are imported when one is asked for."""
