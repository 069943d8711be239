"""Shares part of one Immich user's library with another user: finished copies, no second machine learning."""
