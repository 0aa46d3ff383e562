"""What a run knows without being told: code, machine, launch, identity, and what to keep secret."""
