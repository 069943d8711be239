"""How the listener is watched: logs, metrics, health."""
