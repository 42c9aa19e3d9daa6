"""The team's own start-up hook: leakguard must not take its place."""

import os

os.environ["TEAM_HOOK"] = "ran"
