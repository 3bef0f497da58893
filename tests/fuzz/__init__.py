"""Readers under fire: `python -m fuzz` from tests/ tries each with 10,000 inputs, `make fuzz` does so for you."""
