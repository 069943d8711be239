"""Commands beside the service: verify, demo."""
