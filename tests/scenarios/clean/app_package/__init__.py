"""The same shop; its repository returns the connection whatever happens."""
