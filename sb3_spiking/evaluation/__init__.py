"""What a trained agent is worth: episodes under a protocol, operations and energy, robustness."""
