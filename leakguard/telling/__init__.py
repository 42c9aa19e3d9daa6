"""From the register and the judge to whoever is told: frozen values, counts and metrics, and the queues."""
