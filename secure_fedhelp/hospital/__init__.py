"""One hospital: its folder, its vault, the loop that takes part in a study, and what it checks before it decrypts."""
