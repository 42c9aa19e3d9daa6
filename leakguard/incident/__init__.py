"""What is done at the moment when no connection is left."""
