"""The command line of raftkv: click commands and what they print. The engine knows nothing of it."""
