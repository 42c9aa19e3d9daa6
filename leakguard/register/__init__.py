"""What is held, by whom, and where it was acquired: written by the hot path, read by everything else."""
