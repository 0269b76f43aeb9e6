"""Lists of trainings, on processes of this machine, Slurm or Ray: environments x methods x seeds, and what comes out."""
