"""``python -m sb3_spiking`` is ``sb3-spiking``."""

from sb3_spiking.commands import main

main()
