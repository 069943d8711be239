"""What Immich is: the tables of this server, where its files are, its API."""
