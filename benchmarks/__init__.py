"""Measurements of raftkv on the machine at hand, as programs that print what they measured."""
