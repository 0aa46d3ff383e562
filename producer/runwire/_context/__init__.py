"""What a run knows about itself without being told: code, machine, launch, identity, and what to keep secret."""
