"""What a hold means: pure rules, the limits and accounts that they need, the judge who puts them, and the words."""
