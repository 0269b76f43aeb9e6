"""RL Zoo: our hyperparameters, the search over spiking settings, its commands for the Hub."""
