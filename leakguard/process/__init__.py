"""The process and its interpreter: threads that nobody patched, its ends, its signals, its heap."""
